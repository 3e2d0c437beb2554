//! The intent is stored before any agent hears of it.

use super::super::plan::Draft;
use super::super::state::Stage;

impl Draft<'_> {
    /// Intent before action: agents hear of the attempt only when the status that declares it is stored, so that whoever
    /// comes after a crash knows whom to release and what to void.
    pub fn declaring(&mut self) -> bool {
        if !self.observed.recorded {
            return false;
        }
        self.run.prepare_deadline = Some(self.now.monotonic + self.request.prepare_timeout);
        self.run.stage = Stage::Preparing;
        true
    }
}
