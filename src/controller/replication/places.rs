//! How much is done at the same time. Whoever needs agents has a place among the runs; what only waits for its uploads, and
//! what only cleans up after an ended run, takes none from those.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use stillpoint_core::limits::{MAX_GOODBYES, MAX_UPLOADS};

/// The places. A clone is another handle on the same ones.
#[derive(Clone)]
pub struct Places {
    runs: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    goodbyes: Arc<Semaphore>,
}

/// A place that is taken until this is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    aside: bool,
}

impl Places {
    /// Places for so many runs, [`MAX_UPLOADS`] and [`MAX_GOODBYES`].
    pub fn new(runs: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { runs: places(runs), uploads: places(MAX_UPLOADS), goodbyes: places(MAX_GOODBYES) }
    }

    /// A place among the runs, if one is free.
    pub fn try_run(&self) -> Option<Place> {
        take(&self.runs)
    }

    /// Waits for a place among the runs. Safe to cancel.
    pub async fn run(&self) -> Place {
        match Arc::clone(&self.runs).acquire_owned().await {
            Ok(permit) => Place { _permit: permit, aside: false },
            // Nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }

    /// A place for the deletion of an ended run, if one is free.
    pub fn try_goodbye(&self) -> Option<Place> {
        take(&self.goodbyes)
    }

    /// Gives a place among the runs back for one among the uploads. When those are all taken it stays where it is.
    pub fn move_aside(&self, place: &mut Place) {
        if let (false, Some(other)) = (place.aside, take(&self.uploads)) {
            *place = Place { aside: true, ..other };
        }
    }
}

fn take(places: &Arc<Semaphore>) -> Option<Place> {
    Some(Place { _permit: Arc::clone(places).try_acquire_owned().ok()?, aside: false })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_upload_gives_its_place_among_the_runs_to_the_next() {
        let places = Places::new(1);
        let mut first = places.try_run().unwrap();
        assert!(places.try_run().is_none());
        assert!(places.try_goodbye().is_some(), "a deletion waits for no run");
        let waiting = tokio::spawn({
            let places = places.clone();
            async move { places.run().await }
        });
        places.move_aside(&mut first);
        let second = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
        places.move_aside(&mut first);
        assert_eq!(places.uploads.available_permits(), MAX_UPLOADS - 1, "moved once");

        let _others: Vec<Place> = (1..MAX_UPLOADS).map(|_| take(&places.uploads).unwrap()).collect();
        drop(second);
        let mut third = places.try_run().unwrap();
        places.move_aside(&mut third);
        assert!(places.try_run().is_none(), "without a place aside it keeps its own");
    }
}
