//! Quiescers: ways to bring an application to a point that it can be restored from. One file each, and one line in
//! [`QUIESCERS`].
//!
//! A member without one is suspended without asking its application.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use stillpoint_core::hold::Refused;
use stillpoint_core::limits::UNQUIESCE_TIMEOUT;

/// One application. Both calls are bounded by the caller, who drops them when the time is up.
pub trait Quiescer: Send {
    /// Brings the application to a point that it can be restored from, and keeps it there.
    fn quiesce(&mut self) -> BoxFuture<'_, Result<(), Refused>>;

    /// Lets the application go on. Called once on every way out, also after a quiesce that failed or was dropped, and by
    /// an agent that finds a record of one. A sentence says what did not work.
    fn resume(&mut self) -> BoxFuture<'_, Result<Held, String>>;

    /// What a later agent needs to let the application go on, as the settings of a quiescer of the same name. `None`: the
    /// application goes on by itself when this agent is gone.
    fn owed(&self) -> Option<Value>;
}

/// Whether the application had stayed quiesced until it was let go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Without a break.
    Yes,
    /// It had gone on before, or nobody can say.
    No,
}

/// Makes a quiescer from its settings, or says in a sentence what is wrong with them.
pub type Make = fn(&Value) -> Result<Box<dyn Quiescer>, String>;

/// The quiescers of this agent, by name.
pub static QUIESCERS: &[(&str, Make)] = &[];

/// What a later agent must let go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// The quiescer's name.
    pub quiescer: String,
    /// What it is made from.
    pub settings: Value,
}

/// Makes the quiescer of this name.
///
/// # Errors
/// A sentence: there is none, or its settings are wrong.
pub fn make(quiescers: &[(&str, Make)], name: &str, settings: &Value) -> Result<Box<dyn Quiescer>, String> {
    let (_, make) =
        quiescers.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("there is no quiescer {name:?}"))?;
    make(settings)
}

/// Lets go on what an earlier agent left quiesced. Blocks for at most [`UNQUIESCE_TIMEOUT`].
///
/// # Errors
/// A sentence that says why nobody knows whether the application goes on.
pub fn give_back(quiescers: &[(&str, Make)], owed: &Owed) -> Result<Held, String> {
    let mut quiescer = make(quiescers, &owed.quiescer, &owed.settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|it| it.to_string())?;
    runtime.block_on(bounded(UNQUIESCE_TIMEOUT, quiescer.resume()))
}

/// What `resume` answers within this time.
///
/// # Errors
/// Its own sentence, or that it did not answer.
pub async fn bounded(limit: Duration, resume: BoxFuture<'_, Result<Held, String>>) -> Result<Held, String> {
    let silent = |_| Err(format!("the application did not say within {limit:?} that it goes on"));
    tokio::time::timeout(limit, resume).await.unwrap_or_else(silent)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static RESUMED: Mutex<Vec<Value>> = Mutex::new(Vec::new());

    struct Scripted(Value);

    impl Quiescer for Scripted {
        fn quiesce(&mut self) -> BoxFuture<'_, Result<(), Refused>> {
            Box::pin(async { Ok(()) })
        }

        fn resume(&mut self) -> BoxFuture<'_, Result<Held, String>> {
            Box::pin(async {
                RESUMED.lock().unwrap().push(self.0.clone());
                Ok(Held::No)
            })
        }

        fn owed(&self) -> Option<Value> {
            Some(self.0.clone())
        }
    }

    const SCRIPTED: &[(&str, Make)] = &[("scripted", |settings| Ok(Box::new(Scripted(settings.clone()))))];

    #[test]
    fn a_later_agent_lets_go_on_what_is_owed() {
        let settings = serde_json::json!({ "backup": 7 });
        let owed = make(SCRIPTED, "scripted", &settings).map(|it| it.owed()).unwrap().unwrap();
        let owed = Owed { quiescer: "scripted".to_owned(), settings: owed };
        assert_eq!(give_back(SCRIPTED, &owed), Ok(Held::No));
        assert_eq!(*RESUMED.lock().unwrap(), [settings]);
        assert!(give_back(QUIESCERS, &owed).unwrap_err().contains("no quiescer"));
    }
}
