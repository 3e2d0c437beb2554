//! Keeps the table of one kind current: lists, watches, and begins again when that fails.
//!
//! A reflector of our own, because who wants the newest must know how new the picture is, and kube's `watcher` does not tell:
//! its `InitDone` has no resource version, and it keeps bookmarks to itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use kube::api::WatchEvent;
use kube::runtime::utils::Backoff as _;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, ResourceExt};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::page;
use super::subject::Subject;
use super::table::Table;
use crate::controller::api::{is_absent, sentence};
use stillpoint_core::limits::{API_RETRY_MAX, API_TIMEOUT, WATCH_SILENCE};

/// Why a kind could not be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The API server does not know the kind.
    Absent,
    /// The API server has forgotten what happened since the version that is known.
    Gone,
    /// Anything else, in a sentence.
    Failed(String),
}

impl From<&kube::Error> for Trouble {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if is_absent(status) => Self::Absent,
            kube::Error::Api(status) if status.code == 410 => Self::Gone,
            error => Self::Failed(sentence(error)),
        }
    }
}

impl Trouble {
    fn late() -> Self {
        Self::Failed("the API server did not answer in time".to_owned())
    }

    fn why(&self) -> &str {
        match self {
            Self::Absent => "the API server does not serve them",
            Self::Gone => "the API server has forgotten too much",
            Self::Failed(why) => why,
        }
    }
}

/// One kind of objects, of one place.
pub struct Picture<S: Subject> {
    api: Api<S::Object>,
    /// `of namespace shop`.
    place: String,
    /// Permits to read a page.
    pages: Arc<Semaphore>,
    table: Mutex<Table<S::Fact>>,
    /// How many lists were begun.
    begun: AtomicU64,
    /// The number of the last list that succeeded; whoever has it lists.
    done: tokio::sync::Mutex<u64>,
    /// The watch must be begun again.
    rewound: Notify,
    /// What was complained of last.
    complaint: Mutex<Option<Trouble>>,
}

impl<S: Subject> Picture<S> {
    /// Knows nothing yet. `place` ends a sentence that begins with what is read.
    pub fn new(api: Api<S::Object>, place: String, pages: Arc<Semaphore>) -> Self {
        Self {
            api,
            place,
            pages,
            table: Mutex::default(),
            begun: AtomicU64::default(),
            done: tokio::sync::Mutex::default(),
            rewound: Notify::new(),
            complaint: Mutex::default(),
        }
    }

    /// What is known.
    pub fn table(&self) -> MutexGuard<'_, Table<S::Fact>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the picture at least as new as this call. Whoever asks while a list is under way shares the next one.
    ///
    /// # Errors
    /// When it cannot be read within [`API_TIMEOUT`].
    pub async fn refresh(&self) -> Result<(), Trouble> {
        self.list_no(self.begun.load(Ordering::SeqCst) + 1).await
    }

    /// Makes sure that something is known, and lists anew if something is wrong with the watch.
    ///
    /// # Errors
    /// As those of [`Self::refresh`].
    pub async fn look(&self) -> Result<(), Trouble> {
        let complains = self.complaint.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if complains { self.refresh().await } else { self.list_no(1).await }
    }

    /// A sentence of what could not be read, and why.
    pub fn error(&self, trouble: &Trouble) -> anyhow::Error {
        anyhow::anyhow!("the {} {} could not be read: {}", S::WHAT, self.place, trouble.why())
    }

    /// Waits for the list of this number, or lists.
    async fn list_no(&self, number: u64) -> Result<(), Trouble> {
        let listed = async {
            let mut done = self.done.lock().await;
            if *done < number {
                let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
                self.list().await?;
                *done = number;
            }
            Ok(())
        };
        timeout(API_TIMEOUT, listed).await.unwrap_or_else(|_| Err(Trouble::late()))
    }

    /// Reads page by page, until all are read or the watch has told as much.
    async fn list(&self) -> Result<(), Trouble> {
        let known = self.table().version();
        let (mut params, mut facts, mut first) = (S::list(), BTreeMap::new(), None);
        loop {
            // Held until what was read is nothing but facts.
            let permit = self.pages.acquire().await;
            let page = page::read::<S>(&self.api, &params).await?;
            let version = match first {
                // All pages are of the first one's version.
                Some(version) => version,
                None => *first.insert(number(page.metadata.resource_version.as_deref())?),
            };
            let next = page.metadata.continue_.filter(|token| !token.is_empty());
            facts.extend(page.facts);
            drop(permit);
            let mut table = self.table();
            if next.is_none() {
                if table.list(version, facts, known) {
                    tracing::warn!(what = S::WHAT, place = self.place, "the API server went back in its history");
                    self.rewound.notify_one();
                }
                return Ok(());
            }
            if table.has_reached(version, known) {
                return Ok(());
            }
            params.continue_token = next;
        }
    }

    /// Keeps the picture current.
    async fn keep(&self) -> Infallible {
        let mut pauses = DefaultBackoff::default();
        loop {
            match self.watch().await {
                Ok(()) => pauses.reset(),
                Err(trouble) => {
                    self.complain(trouble);
                    sleep(pauses.next().unwrap_or(API_RETRY_MAX)).await;
                }
            }
        }
    }

    /// One watch, from the version that is known to its end. One that told nothing is a failure, so that a pause follows.
    async fn watch(&self) -> Result<(), Trouble> {
        self.list_no(1).await?;
        let version = self.table().version().to_string();
        let started = timeout(API_TIMEOUT, self.api.watch(&S::watch(), &version)).await.map_err(|_| Trouble::late())?;
        let (heard, ended) = match started {
            Ok(events) => self.hear_all(pin!(events)).await,
            Err(error) => (false, Trouble::from(&error)),
        };
        if ended == Trouble::Gone {
            self.refresh().await?;
        }
        if heard { Ok(()) } else { Err(ended) }
    }

    /// Hears events until they end. Says whether there were any, and why there are no more.
    async fn hear_all(
        &self,
        mut events: Pin<&mut impl Stream<Item = kube::Result<WatchEvent<S::Object>>>>,
    ) -> (bool, Trouble) {
        let mut heard = false;
        loop {
            let event = tokio::select! {
                () = self.rewound.notified() => return (true, Trouble::Failed("it must be begun again".to_owned())),
                event = timeout(WATCH_SILENCE, events.next()) => event,
            };
            let told = match event {
                Ok(Some(Ok(event))) => self.hear(event),
                Ok(Some(Err(error))) => Err(Trouble::from(&error)),
                Ok(None) | Err(_) => Err(Trouble::Failed("a watch ended before it told anything".to_owned())),
            };
            if let Err(trouble) = told {
                return (heard, trouble);
            }
            self.take_heart();
            heard = true;
        }
    }

    fn hear(&self, event: WatchEvent<S::Object>) -> Result<(), Trouble> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let (version, key) = (number(object.resource_version().as_deref())?, S::key(&object));
                self.table().event(version, &key, S::fact(object));
            }
            WatchEvent::Deleted(object) => {
                self.table().event(number(object.resource_version().as_deref())?, &S::key(&object), None);
            }
            WatchEvent::Bookmark(bookmark) => {
                self.table().bookmark(number(Some(&bookmark.metadata.resource_version))?);
            }
            WatchEvent::Error(status) => return Err(Trouble::from(&kube::Error::Api(status))),
        }
        Ok(())
    }

    /// Says what is wrong, once for every cause.
    fn complain(&self, trouble: Trouble) {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&trouble) {
            return;
        }
        let (what, place, why) = (S::WHAT, &self.place, trouble.why());
        if trouble == Trouble::Absent {
            tracing::info!(what, place, why, "cannot be watched yet, and is tried again");
        } else {
            tracing::warn!(what, place, why, "cannot be watched, and is tried again");
        }
        *last = Some(trouble);
    }

    fn take_heart(&self) {
        if self.complaint.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(what = S::WHAT, place = self.place, "is watched again");
        }
    }
}

fn number(version: Option<&str>) -> Result<u64, Trouble> {
    let version = version.unwrap_or_default();
    version.parse().map_err(|_| Trouble::Failed(format!("{version:?} is no resource version that can be compared")))
}

/// A picture that is kept current as long as this lives.
pub struct Watched<S: Subject> {
    picture: Arc<Picture<S>>,
    _watch: DropGuard,
}

impl<S: Subject> Watched<S> {
    /// Starts to watch.
    pub fn start(picture: Picture<S>) -> Self {
        let (picture, ended) = (Arc::new(picture), CancellationToken::new());
        tokio::spawn({
            let (picture, ended) = (picture.clone(), ended.clone());
            async move { ended.run_until_cancelled(picture.keep()).await.is_some() }
        });
        Self { picture, _watch: ended.drop_guard() }
    }

    /// The picture itself, which nobody need keep current.
    pub fn picture(&self) -> Arc<Picture<S>> {
        self.picture.clone()
    }
}

impl<S: Subject> Deref for Watched<S> {
    type Target = Picture<S>;

    fn deref(&self) -> &Picture<S> {
        &self.picture
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io;

    use axum::Router;
    use kube::Client;

    use super::super::subject::Replicas;
    use super::*;
    use stillpoint_core::replica::all_objects;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said_once_for_every_cause_and_a_refusal_as_a_warning() {
        let client = Client::new(Router::new(), "shop");
        let picture: Picture<Replicas> = Picture::new(
            Api::all_with(client, &all_objects()[0]),
            "of the cluster".to_owned(),
            Arc::new(Semaphore::new(1)),
        );
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let forbidden = || Trouble::Failed("volumesnapshots is forbidden".to_owned());
            for trouble in [forbidden(), forbidden(), Trouble::Absent, Trouble::Absent, forbidden()] {
                picture.complain(trouble);
            }
            picture.take_heart();
            picture.take_heart();
            picture.complain(forbidden());
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let levels: Vec<_> = log.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
        assert_eq!(levels, ["WARN", "INFO", "WARN", "INFO", "WARN"], "{log}");
        assert!(log.lines().next().unwrap().contains("volumesnapshots is forbidden"), "{log}");
    }
}
