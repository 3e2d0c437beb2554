//! The CAs as a Secret holds them: reading it, and what it holds after a step of a rotation. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::authority::{Authority, Unusable, check_certificate};
use super::rotation::{Dates, Next, Previous, Step};

/// Name of the Secret in the controller's own namespace.
pub const SECRET: &str = "stillpoint-ca";
/// Annotation by which an operator asks for a rotation; its value does not matter. The controller takes it away.
pub const ROTATE: &str = "stillpoint.io/rotate";

pub(super) const CERTIFICATE: &str = "ca.crt";
pub(super) const KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
/// Without its key, which nobody needs any more.
const PREVIOUS_CERTIFICATE: &str = "previous.crt";

/// Annotations with the dates of a rotation (RFC 3339), for the controller and for people.
const MADE: &str = "stillpoint.io/ca-made-at";
const NEXT_MADE: &str = "stillpoint.io/next-ca-made-at";
const NEXT_PUBLISHED: &str = "stillpoint.io/next-ca-published-at";
const REPLACED: &str = "stillpoint.io/previous-ca-replaced-at";

/// What the Secret holds.
#[derive(Debug)]
pub struct Stored {
    current: Authority,
    next: Option<Authority>,
    previous: Option<String>,
    dates: Dates,
    /// As it was read: a write must carry its resource version.
    secret: Secret,
}

impl Stored {
    /// The Secret of a first CA.
    ///
    /// # Errors
    /// [`Unusable`] when the system gives no randomness.
    pub fn first(now: SystemTime) -> Result<Secret, Unusable> {
        let authority = Authority::generate(now)?;
        let mut secret = Secret {
            metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
            ..Secret::default()
        };
        put(&mut secret, CERTIFICATE, authority.certificate_pem());
        put(&mut secret, KEY, &authority.key_pem());
        date(&mut secret, MADE, now);
        Ok(secret)
    }

    /// Reads a Secret. A next or previous CA that is spoiled is left out, so that it cannot spoil what agents trust; the
    /// current one must be whole.
    ///
    /// # Errors
    /// What is wrong with the current CA.
    pub fn read(secret: Secret, now: SystemTime) -> Result<Self, String> {
        let no_data = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&no_data);
        let text = |key: &str| {
            let bytes = data.get(key).ok_or_else(|| format!("it has no `{key}`"))?;
            std::str::from_utf8(&bytes.0).map_err(|_| format!("its `{key}` is not text"))
        };
        let current = Authority::from_pem(text(CERTIFICATE)?, text(KEY)?, now).map_err(|error| error.to_string())?;
        let next = text(NEXT_CERTIFICATE).and_then(|certificate| {
            Authority::from_pem(certificate, text(NEXT_KEY)?, now).map_err(|error| error.to_string())
        });
        let previous = text(PREVIOUS_CERTIFICATE).and_then(|certificate| {
            check_certificate(certificate).map(|()| certificate.to_owned()).map_err(|error| error.to_string())
        });
        for (key, error) in [(NEXT_CERTIFICATE, next.as_ref().err()), (PREVIOUS_CERTIFICATE, previous.as_ref().err())] {
            if let Some(error) = error.filter(|_| data.contains_key(key)) {
                tracing::warn!("`{key}` of Secret {SECRET} is left out: {error}");
            }
        }
        let (next, previous) = (next.ok(), previous.ok());
        let dated = |key| date_of(&secret, key);
        // A Secret of a version that wrote no dates was made with its CA and not changed since.
        let created = secret.metadata.creation_timestamp.as_ref().map(|time| SystemTime::from(time.0));
        let dates = Dates {
            made: dated(MADE).or(created).unwrap_or(now),
            next: next.as_ref().map(|_| Next { made: dated(NEXT_MADE), published: dated(NEXT_PUBLISHED) }),
            previous: previous.as_ref().map(|_| Previous { replaced: dated(REPLACED) }),
            requested: secret.annotations().contains_key(ROTATE),
        };
        Ok(Self { current, next, previous, dates, secret })
    }

    /// The resource version of the Secret.
    pub fn version(&self) -> Option<&str> {
        self.secret.metadata.resource_version.as_deref()
    }

    /// The CA that signs.
    pub fn current(&self) -> &Authority {
        &self.current
    }

    /// What decides about a rotation.
    pub fn dates(&self) -> &Dates {
        &self.dates
    }

    /// Every certificate that agents are to trust, in PEM form. The oldest is first, so that a promotion changes nothing.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(Authority::certificate_pem);
        let all = [self.previous.as_deref(), Some(self.current.certificate_pem()), next];
        all.into_iter().flatten().map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// The Secret after a step; it carries the resource version of the one that was read.
    ///
    /// # Errors
    /// [`Unusable`] when the system gives no randomness.
    pub fn after(&self, step: Step, now: SystemTime) -> Result<Secret, Unusable> {
        let mut secret = self.secret.clone();
        match step {
            Step::Wait => {}
            Step::Introduce => {
                let next = Authority::generate(now)?;
                put(&mut secret, NEXT_CERTIFICATE, next.certificate_pem());
                put(&mut secret, NEXT_KEY, &next.key_pem());
                date(&mut secret, NEXT_MADE, now);
                date(&mut secret, MADE, self.dates.made);
                drop_dates(&mut secret, &[NEXT_PUBLISHED, ROTATE]);
            }
            Step::NotePublished => date(&mut secret, NEXT_PUBLISHED, now),
            Step::Promote => {
                let Some(next) = &self.next else { return Ok(secret) };
                put(&mut secret, PREVIOUS_CERTIFICATE, self.current.certificate_pem());
                put(&mut secret, CERTIFICATE, next.certificate_pem());
                put(&mut secret, KEY, &next.key_pem());
                drop_data(&mut secret, &[NEXT_CERTIFICATE, NEXT_KEY]);
                date(&mut secret, MADE, self.dates.next.and_then(|next| next.made).unwrap_or(now));
                date(&mut secret, REPLACED, now);
                drop_dates(&mut secret, &[NEXT_MADE, NEXT_PUBLISHED]);
            }
            Step::NoteReplaced => date(&mut secret, REPLACED, now),
            Step::Retire => {
                drop_data(&mut secret, &[PREVIOUS_CERTIFICATE]);
                drop_dates(&mut secret, &[REPLACED]);
            }
        }
        Ok(secret)
    }
}

fn put(secret: &mut Secret, key: &str, text: &str) {
    secret.data.get_or_insert_default().insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
}

fn drop_data(secret: &mut Secret, keys: &[&str]) {
    secret.data.get_or_insert_default().retain(|key, _| !keys.contains(&key.as_str()));
}

fn drop_dates(secret: &mut Secret, keys: &[&str]) {
    secret.annotations_mut().retain(|key, _| !keys.contains(&key.as_str()));
}

/// A time that cannot be written down is left out, and so unknown.
fn date(secret: &mut Secret, key: &str, at: SystemTime) {
    if let Ok(at) = Timestamp::try_from(at) {
        secret.annotations_mut().insert(key.to_owned(), at.to_string());
    }
}

fn date_of(secret: &Secret, key: &str) -> Option<SystemTime> {
    Some(secret.annotations().get(key)?.parse::<Timestamp>().ok()?.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use stillpoint_core::limits::CA_OVERLAP;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn made() -> Secret {
        Stored::first(now()).expect("randomness")
    }

    fn read(secret: Secret) -> Stored {
        Stored::read(secret, now()).expect("a good Secret")
    }

    fn stepped(stored: &Stored, step: Step) -> Stored {
        read(stored.after(step, now()).expect("randomness"))
    }

    fn data(secret: &mut Secret) -> &mut BTreeMap<String, ByteString> {
        secret.data.get_or_insert_default()
    }

    #[test]
    fn what_was_made_is_read_back() {
        let secret = made();
        let certificate = String::from_utf8(secret.data.clone().expect("data")[CERTIFICATE].0.clone()).expect("PEM");
        let stored = read(secret);
        assert_eq!(stored.current().certificate_pem(), certificate);
        assert_eq!(stored.dates(), &Dates { made: now(), next: None, previous: None, requested: false });
        assert_eq!(stored.bundle().matches("BEGIN CERTIFICATE").count(), 1);
    }

    #[test]
    fn a_whole_rotation() {
        let mut secret = made();
        secret.metadata.resource_version = Some("7".to_owned());
        secret.annotations_mut().insert(ROTATE.to_owned(), String::new());
        secret.annotations_mut().insert("somebody/else".to_owned(), "stays".to_owned());
        let first = read(secret);
        assert!(first.dates().requested);

        let introduced = stepped(&first, Step::Introduce);
        assert_eq!(introduced.current().certificate_pem(), first.current().certificate_pem(), "it signs on");
        assert!(introduced.bundle().starts_with(&first.bundle()) && introduced.bundle() != first.bundle());
        let next = Next { made: Some(now()), published: None };
        assert_eq!(introduced.dates(), &Dates { next: Some(next), requested: false, ..first.dates().clone() });

        let published = stepped(&introduced, Step::NotePublished);
        assert_eq!(published.dates().next.expect("a next CA").published, Some(now()));

        let promoted = stepped(&published, Step::Promote);
        assert_ne!(promoted.current().certificate_pem(), first.current().certificate_pem());
        assert_eq!(promoted.bundle(), published.bundle(), "a promotion publishes nothing");
        assert_eq!(promoted.dates().previous, Some(Previous { replaced: Some(now()) }));
        assert_eq!(promoted.dates().next, None);

        let retired = stepped(&promoted, Step::Retire);
        assert_eq!(retired.bundle().trim_end(), promoted.current().certificate_pem().trim_end());
        assert_eq!(retired.dates().previous, None);
        let left = retired.secret;
        assert_eq!(left.metadata.resource_version.as_deref(), Some("7"), "a write says what it was decided from");
        assert_eq!(left.data.expect("data").into_keys().collect::<Vec<_>>(), [CERTIFICATE, KEY]);
        assert_eq!(
            left.metadata.annotations.expect("annotations").into_keys().collect::<Vec<_>>(),
            ["somebody/else", MADE]
        );
    }

    #[test]
    fn a_secret_without_dates_is_as_old_as_it_is() {
        let mut secret = made();
        secret.metadata.annotations = None;
        let created = now() - CA_OVERLAP;
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(created.try_into().expect("a time"));
        secret.metadata.creation_timestamp = Some(time);
        assert_eq!(read(secret).dates().made, created);
    }

    #[test]
    fn a_date_that_is_no_date_is_unknown() {
        let mut secret = read(made()).after(Step::Introduce, now()).expect("randomness");
        for word in ["", "yesterday", "2026-13-01T00:00:00Z", "99999999999999"] {
            secret.annotations_mut().insert(NEXT_MADE.to_owned(), word.to_owned());
            assert_eq!(read(secret.clone()).dates().next.expect("a next CA").made, None, "{word}");
        }
    }

    #[test]
    fn a_spoiled_next_or_previous_is_left_out_of_the_bundle() {
        let whole = stepped(&stepped(&read(made()), Step::Introduce), Step::Promote);
        let whole = whole.after(Step::Introduce, now()).expect("randomness");
        assert_eq!(read(whole.clone()).bundle().matches("BEGIN CERTIFICATE").count(), 3);
        let other = Authority::generate(now()).expect("randomness");
        for (key, bytes) in [
            (NEXT_CERTIFICATE, b"nothing".to_vec()),
            (NEXT_KEY, vec![0xff]),
            (NEXT_KEY, other.key_pem().into_bytes()),
            (PREVIOUS_CERTIFICATE, b"nothing".to_vec()),
            (PREVIOUS_CERTIFICATE, vec![0xff]),
        ] {
            let mut secret = whole.clone();
            data(&mut secret).insert(key.to_owned(), ByteString(bytes));
            let bundle = read(secret).bundle();
            assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2, "{key}");
            assert!(!bundle.contains("nothing"), "agents would refuse the whole bundle");
        }
    }

    /// Agents look at the dates of the server's certificate, not at those of the CA. So does this: a controller that was away
    /// for years, or whose clock is wrong, goes on, and its CA is rotated.
    #[test]
    fn a_ca_is_read_whatever_its_dates() {
        for now in [now() + 2 * stillpoint_core::limits::CA_VALIDITY, now() - stillpoint_core::limits::CA_VALIDITY] {
            Stored::read(made(), now).expect("a CA");
        }
    }

    #[test]
    fn a_spoiled_current_ca_is_refused() {
        type Spoil = fn(&mut BTreeMap<String, ByteString>);
        let table: [(&str, Spoil); 6] = [
            ("it has no `ca.crt`", |data| data.clear()),
            ("it has no `ca.key`", |data| drop(data.remove(KEY))),
            ("its `ca.key` is not text", |data| drop(data.insert(KEY.into(), ByteString(vec![0xff])))),
            ("the key is not an ECDSA P-256 key", |data| {
                drop(data.insert(KEY.into(), ByteString(b"nothing".to_vec())));
            }),
            ("the certificate is not in PEM form", |data| {
                drop(data.insert(CERTIFICATE.into(), ByteString(b"nothing".to_vec())));
            }),
            ("does not verify against the certificate", |data| {
                let other = Authority::generate(now()).expect("randomness").key_pem().into_bytes();
                drop(data.insert(KEY.into(), ByteString(other)));
            }),
        ];
        for (reason, spoil) in table {
            let mut secret = made();
            spoil(data(&mut secret));
            let error = Stored::read(secret, now()).expect_err(reason);
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
