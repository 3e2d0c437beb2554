//! One page of a list, read object by object as it arrives: of a page of any size no more than one object is ever in memory, and
//! the facts of those before it.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;

use futures::{AsyncRead, AsyncReadExt};
use kube::Api;
use kube::api::ListParams;
use kube::core::{ListMeta, Request};
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::picture::Trouble;
use super::subject::Subject;
use stillpoint_core::limits::API_TIMEOUT;

/// What a page says.
#[derive(Debug)]
pub struct Page<F> {
    /// Its version, and where the next page begins.
    pub metadata: ListMeta,
    /// What is kept of its objects, by key.
    pub facts: Vec<(String, F)>,
}

impl<F> Default for Page<F> {
    fn default() -> Self {
        Self { metadata: ListMeta::default(), facts: Vec::new() }
    }
}

/// Reads a page.
///
/// # Errors
/// The API server refuses, or what it says is no list.
pub async fn read<S: Subject>(api: &Api<S::Object>, params: &ListParams) -> Result<Page<S::Fact>, Trouble> {
    let request = Request::new(api.resource_url()).list(params).map_err(kube::Error::BuildRequest);
    let request = request.map_err(|error| Trouble::from(&error))?;
    let body = api.clone().into_client().request_stream(request).await.map_err(|error| Trouble::from(&error))?;
    let runtime = Handle::current();
    // Parsing waits for what arrives, which may block its thread and no other.
    let parsed = tokio::task::spawn_blocking(move || parse::<S>(BufReader::new(Arriving { body, runtime })));
    let page = parsed.await.map_err(|error| Trouble::Failed(error.to_string()))?;
    page.map_err(|error| Trouble::Failed(format!("the list cannot be understood: {error}")))
}

/// A body that is waited for.
struct Arriving<B> {
    body: B,
    runtime: Handle,
}

impl<B: AsyncRead + Unpin> Read for Arriving<B> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // A timer must be made within the runtime.
        let read = async { timeout(API_TIMEOUT, self.body.read(into)).await };
        self.runtime.block_on(read).unwrap_or_else(|late| Err(io::Error::new(io::ErrorKind::TimedOut, late)))
    }
}

fn parse<S: Subject>(body: impl Read) -> serde_json::Result<Page<S::Fact>> {
    serde_json::Deserializer::from_reader(body).deserialize_map(OfList::<S>(PhantomData))
}

/// Takes a list apart.
struct OfList<S>(PhantomData<S>);

impl<'de, S: Subject> Visitor<'de> for OfList<S> {
    type Value = Page<S::Fact>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut page = Page::default();
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "metadata" => page.metadata = fields.next_value()?,
                "items" => fields.next_value_seed(Items::<S>(&mut page.facts))?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(page)
    }
}

/// Takes the objects of a list one after the other.
struct Items<'a, S: Subject>(&'a mut Vec<(String, S::Fact)>);

impl<'de, S: Subject> DeserializeSeed<'de> for Items<'_, S> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: Subject> Visitor<'de> for Items<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("objects")
    }

    /// What Go makes of a list that was never filled.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<(), A::Error> {
        while let Some(object) = objects.next_element::<S::Object>()? {
            let key = S::key(&object);
            self.0.extend(S::fact(object).map(|fact| (key, fact)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::cell::Cell;
    use std::rc::Rc;

    use serde_json::json;

    use super::super::subject::{Claims, Runs};
    use super::*;

    #[test]
    fn the_parts_of_a_list_come_in_any_order_and_may_be_missing() {
        let claim = |name: &str| json!({"metadata": {"name": name, "namespace": "shop", "uid": name}});
        let items = json!([claim("a"), claim("b")]);
        let metadata = json!({"resourceVersion": "7", "continue": "next"});
        for list in [
            format!(r#"{{"kind": "List", "metadata": {metadata}, "items": {items}}}"#),
            format!(r#"{{"items": {items}, "later": [{{}}], "metadata": {metadata}}}"#),
        ] {
            let page = parse::<Claims>(list.as_bytes()).unwrap();
            assert_eq!(page.facts.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["a", "b"], "{list}");
            assert_eq!(page.metadata.resource_version.as_deref(), Some("7"));
            assert_eq!(page.metadata.continue_.as_deref(), Some("next"));
        }
        assert!(parse::<Claims>(r#"{"metadata": {}, "items": null}"#.as_bytes()).unwrap().facts.is_empty());
        for no_list in ["", "[]", r#"{"items": 7}"#, r#"{"items": [7]}"#, r#"{"items": [{"metadata"#] {
            assert!(parse::<Claims>(no_list.as_bytes()).is_err(), "{no_list}");
        }
    }

    /// As many runs as are asked for, large ones, made while they are read; notes how many were.
    struct Endless {
        left: usize,
        chunk: io::Cursor<Vec<u8>>,
        made: Rc<Cell<usize>>,
    }

    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let read = self.chunk.read(into)?;
            if read > 0 || self.left == 0 {
                return Ok(read);
            }
            self.left -= 1;
            self.made.set(self.made.get() + 1);
            let comma = if self.left > 0 { "," } else { "]}" };
            let uid = self.left.to_string();
            let spec = json!({"source": {"persistentVolumeClaimNames": ["x".repeat(5_000)]}, "mode": 7});
            self.chunk = io::Cursor::new(format!("{}{comma}", json!({"metadata": {"uid": uid}, "spec": spec})).into());
            self.chunk.read(into)
        }
    }

    #[test]
    fn a_thousand_large_objects_leave_a_thousand_stubs_also_of_those_that_cannot_be_understood() {
        let made = Rc::new(Cell::new(0));
        let body = Endless { left: 1_000, chunk: io::Cursor::new(b"{\"items\": [".into()), made: made.clone() };
        let page = parse::<Runs>(BufReader::new(body)).unwrap();
        assert_eq!((made.get(), page.facts.len()), (1_000, 1_000));
        let kept: usize = page.facts.iter().map(|(key, stub)| key.len() + format!("{stub:?}").len()).sum();
        assert!(kept < 1_000 * 500, "{kept} bytes");
    }
}
