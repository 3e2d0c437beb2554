use super::*;
use crate::limits::API_RETRY_MIN;

fn resource(kind: &str) -> ApiResource {
    ApiResource {
        group: "test".into(),
        version: "v1".into(),
        api_version: "test/v1".into(),
        kind: kind.into(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

fn remove(kind: &str, names: &[&str]) -> Remove {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Remove { resource: resource(kind), names, selector: "uid=1".into() }
}

fn list(kind: &str) -> Option<Ask> {
    Some(Ask::List { resource: resource(kind), selector: "uid=1".into() })
}

fn delete(kind: &str, name: &str) -> Option<Ask> {
    Some(Ask::Delete { resource: resource(kind), name: name.into(), version: None })
}

fn of(name: &str, attempt: Option<u32>) -> Found {
    Found { name: name.to_owned(), attempt, owners: Vec::new(), making: Making::Settled }
}

fn refused(why: &str) -> Trouble {
    Trouble { why: why.into(), refused: true }
}

fn no_answer() -> Trouble {
    Trouble { why: "no answer".into(), refused: false }
}

#[test]
fn replicas_of_a_later_attempt_are_left_alone() {
    let mut removal = Removal::new(vec![remove("Snapshot", &["named"]), remove("Copy", &[])], Scope::up_to(2));
    assert_eq!(removal.next_ask(), list("Snapshot"));
    removal.listed(Ok(vec![of("first", Some(1)), of("second", Some(2)), of("third", Some(3)), of("foreign", None)]));
    for name in ["first", "named", "second"] {
        assert_eq!(removal.next_ask(), delete("Snapshot", name));
        removal.deleted(Ok(if name == "named" { Deleted::Absent } else { Deleted::Gone }));
    }
    assert_eq!(removal.next_ask(), list("Copy"));
    removal.listed(Ok(vec![of("copy", Some(2))]));
    assert_eq!(removal.next_ask(), delete("Copy", "copy"));
    removal.deleted(Ok(Deleted::Gone));
    assert_eq!((removal.next_ask(), removal.removed()), (None, Removed { found: 3, left: Vec::new() }));
}

#[test]
fn what_was_orphaned_is_kept() {
    let scope = Scope { last_attempt: 1, owned_by: Some("run".into()) };
    let mut removal = Removal::new(vec![remove("Snapshot", &["named"])], scope);
    let owned = |name: &str, owner: &str| Found { owners: vec![owner.to_owned()], ..of(name, Some(1)) };
    removal.listed(Ok(vec![owned("mine", "run"), owned("anothers", "another"), of("named", Some(1))]));
    assert_eq!(removal.next_ask(), delete("Snapshot", "mine"));
    removal.deleted(Ok(Deleted::Gone));
    assert_eq!(removal.next_ask(), None);
}

#[test]
fn each_is_tried_by_itself_and_a_refusal_is_told_at_once() {
    let mut removal = Removal::new(vec![remove("Snapshot", &[]), remove("Copy", &[])], Scope::up_to(1));
    removal.listed(Ok(vec![of("first", Some(1)), of("second", Some(1))]));
    removal.deleted(Err(refused("a policy denies it")));
    assert_eq!(removal.next_ask(), delete("Snapshot", "second"), "one refusal does not hide what comes after it");
    removal.deleted(Ok(Deleted::Gone));
    assert_eq!(removal.next_ask(), list("Copy"));
    removal.listed(Err(refused("you may not list")));
    assert_eq!(removal.next_ask(), None, "waiting does not help");
    let Removed { found, left } = removal.removed();
    let left: Vec<_> = left.iter().map(|left| left.what.as_str()).collect();
    assert_eq!(
        (found, left),
        (
            1,
            vec![
                "the copys could not be listed: you may not list",
                "Snapshot first could not be deleted: a policy denies it"
            ]
        )
    );
}

#[test]
fn what_may_go_by_itself_is_waited_for_with_growing_pauses_and_then_told() {
    let mut removal = Removal::new(vec![remove("Snapshot", &[])], Scope::up_to(1));
    removal.listed(Err(no_answer()));
    assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN)));
    assert_eq!(removal.next_ask(), list("Snapshot"));
    removal.listed(Ok(vec![of("first", Some(1)), of("second", Some(1))]));
    removal.deleted(Ok(Deleted::Gone));
    removal.deleted(Ok(Deleted::Going));
    assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN * 2)));
    let mut paused = API_RETRY_MIN * 3;
    loop {
        assert_eq!(removal.next_ask(), list("Snapshot"));
        removal.listed(Ok(vec![of("second", Some(1))]));
        removal.deleted(Ok(Deleted::Going));
        match removal.next_ask() {
            Some(Ask::Pause(pause)) => paused += pause,
            over => break assert_eq!(over, None),
        }
    }
    assert!(paused <= REMOVAL_PATIENCE, "{paused:?}");
    let Removed { found, left } = removal.removed();
    assert_eq!((found, left.len()), (2, 1), "DELETE was accepted, and it is still there");
    assert!(left[0].what.starts_with("Snapshot second is being deleted"), "{left:?}");
}

#[test]
fn what_goes_meanwhile_is_gone() {
    let mut removal = Removal::new(vec![remove("Snapshot", &["first"])], Scope::up_to(1));
    removal.listed(Ok(vec![of("first", Some(1))]));
    removal.deleted(Ok(Deleted::Going));
    removal.next_ask();
    removal.listed(Ok(Vec::new()));
    removal.deleted(Ok(Deleted::Absent));
    assert_eq!((removal.next_ask(), removal.removed()), (None, Removed { found: 1, left: Vec::new() }));
}

#[test]
fn what_is_being_made_is_deleted_after_that_or_when_that_lasts_too_long() {
    let being_made = || Found { making: Making::UnderWay, ..of("first", Some(1)) };
    let second = || of("second", Some(1));
    let mut removal = Removal::new(vec![remove("Snapshot", &["first"])], Scope::up_to(1));
    removal.listed(Ok(vec![being_made(), second()]));
    assert_eq!(removal.next_ask(), delete("Snapshot", "second"), "nothing else waits for it");
    removal.deleted(Ok(Deleted::Gone));
    assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN)));
    assert_eq!(removal.removed().left, [], "what a pass has left is no outcome yet");
    let mut dies = removal.clone();

    removal.listed(Ok(vec![of("first", Some(1))]));
    assert_eq!(removal.next_ask(), delete("Snapshot", "first"), "it is made");

    let mut paused = API_RETRY_MIN;
    loop {
        dies.listed(Ok(vec![being_made()]));
        match dies.next_ask() {
            Some(Ask::Pause(pause)) => {
                assert!(paused < MAKING_PATIENCE, "{paused:?}");
                paused += pause;
            }
            ask => break assert_eq!(ask, delete("Snapshot", "first"), "whoever makes it may have died"),
        }
    }
    assert!((MAKING_PATIENCE..=REMOVAL_PATIENCE).contains(&paused), "{paused:?}");
}

#[test]
fn what_nobody_has_begun_to_make_is_deleted_only_if_that_is_still_so() {
    let mut removal = Removal::new(vec![remove("Snapshot", &["first"])], Scope::up_to(1));
    removal.listed(Ok(vec![Found { making: Making::NotBegun(Some("7".into())), ..of("first", Some(1)) }]));
    let (resource, name, version) = (resource("Snapshot"), "first".to_owned(), Some("7".to_owned()));
    assert_eq!(removal.next_ask(), Some(Ask::Delete { resource, name, version }));
    removal.deleted(Err(Trouble { why: "the object has been modified".into(), refused: false }));
    assert_eq!(removal.next_ask(), Some(Ask::Pause(API_RETRY_MIN)), "it is looked at again");
}

#[test]
fn while_a_list_may_tell_how_far_they_are_made_nothing_is_deleted_by_name_alone() {
    for (trouble, deletes) in [(no_answer(), false), (refused("you may not list"), true)] {
        let mut removal = Removal::new(vec![remove("Snapshot", &["first"])], Scope::up_to(1));
        removal.listed(Err(trouble.clone()));
        let by_name = removal.next_ask() == delete("Snapshot", "first");
        assert_eq!(by_name, deletes, "{trouble:?}");
    }
}
