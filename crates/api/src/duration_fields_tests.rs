//! Every text in every field of every kind: the fields are taken from the CRDs, so that a new one is tried too.

use std::panic::catch_unwind;

use serde_json::{Map, Value, json};

use crate::{ConsistencyGroupReplication, crds};

/// Texts that panic in the parser of [`kube::core::Duration`], or are no durations.
const SPOILED: [&str; 4] = ["1s-2s", "99999999999999999999h", "NaNs", "no duration"];
/// A duration that is written otherwise when it is written again: by that a field shows that it is one.
const UNUSUAL: (&str, &str) = ("1h0.5s", "3600.5s");

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Key,
    Item,
}

/// The way to every text in a schema.
fn texts(schema: &Value, way: &[Step], found: &mut Vec<Vec<Step>>) {
    let on = |step| [way, &[step]].concat();
    if schema["type"] == "string" {
        found.push(way.to_vec());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        texts(field, &on(Step::Field(name.clone())), found);
    }
    texts_below(schema, "additionalProperties", on(Step::Key), found);
    texts_below(schema, "items", on(Step::Item), found);
}

fn texts_below(schema: &Value, what: &str, way: Vec<Step>, found: &mut Vec<Vec<Step>>) {
    if schema[what].is_object() {
        texts(&schema[what], &way, found);
    }
}

/// The least that the schema takes.
fn least(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => json!("2026-01-01T00:00:00.000000Z"),
        Some("string") => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("x")),
        Some("integer") => json!(1),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|name| (name.to_owned(), least(&schema["properties"][name]))).collect::<Map<_, _>>().into()
        }
    }
}

/// The least that the schema takes, with a text at one place.
fn with_text(schema: &Value, way: &[Step], text: &str) -> Value {
    let mut object = least(schema);
    match way {
        [] => return json!(text),
        [Step::Field(name), rest @ ..] => object[name] = with_text(&schema["properties"][name], rest, text),
        [Step::Key, rest @ ..] => object["key"] = with_text(&schema["additionalProperties"], rest, text),
        [Step::Item, rest @ ..] => object = json!([with_text(&schema["items"], rest, text)]),
    }
    object
}

fn at<'a>(object: &'a Value, way: &[Step]) -> &'a Value {
    way.iter().fold(object, |object, step| match step {
        Step::Field(name) => &object[name],
        Step::Key => &object["key"],
        Step::Item => &object[0],
    })
}

/// Reads an object of a kind, and writes it again.
fn read(kind: &str, mut object: Value) -> Result<Value, String> {
    object["metadata"] = json!({"name": "x"});
    let read = match kind {
        "ConsistencyGroupReplication" => serde_json::from_value::<ConsistencyGroupReplication>(object)
            .map(|object| serde_json::to_value(object).expect("serialisable")),
        other => panic!("say how a {other} is read"),
    };
    read.map_err(|error| error.to_string())
}

#[test]
fn no_text_in_any_field_panics_and_a_spoiled_status_is_read() {
    let mut durations = Vec::new();
    for crd in crds() {
        let kind = crd.spec.names.kind;
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).expect("serialisable");
        let schema = &schema["openAPIV3Schema"];
        let mut ways = Vec::new();
        texts(schema, &[], &mut ways);
        for way in ways {
            let try_text = |text| {
                let object = with_text(schema, &way, text);
                catch_unwind(|| read(&kind, object)).unwrap_or_else(|_| panic!("{kind} {way:?}: {text} panics"))
            };
            let is_duration = try_text(UNUSUAL.0).is_ok_and(|object| at(&object, &way) == UNUSUAL.1);
            let is_told = matches!(&way[0], Step::Field(part) if part == "status");
            for spoiled in SPOILED {
                match try_text(spoiled) {
                    Err(error) => assert!(!(is_duration && is_told), "{kind} {way:?}: {error}"),
                    Ok(object) if is_duration => {
                        assert!(is_told, "{kind} {way:?} takes {spoiled}");
                        assert!(at(&object, &way).is_null(), "{kind} {way:?} keeps {spoiled}");
                    }
                    Ok(_) => {}
                }
            }
            durations.extend(is_duration.then_some(way));
        }
    }
    assert!(durations.len() >= 8, "durations were not recognised: {durations:?}");
}
