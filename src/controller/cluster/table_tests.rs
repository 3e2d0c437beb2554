#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn everything() -> Wanted<u32> {
    Box::new(|_, _| true)
}

fn list(facts: &[(&str, u32)]) -> BTreeMap<String, u32> {
    facts.iter().map(|(key, fact)| ((*key).to_owned(), *fact)).collect()
}

fn follow(table: &mut Table<u32>) -> u64 {
    table.follow(everything(), BTreeSet::new(), Arc::default())
}

fn take(table: &mut Table<u32>, id: u64) -> Vec<(String, Option<u32>)> {
    table.take(id, usize::MAX)
}

#[test]
fn a_slow_follower_needs_no_more_room_than_the_objects_do() {
    let mut table = Table::default();
    table.list(1, list(&[("stays", 0), ("goes", 0)]), 0);
    let id = follow(&mut table);
    assert_eq!(take(&mut table, id).len(), 2);
    for version in 2..10_000_u64 {
        // One object that changes all the time, and others that come and go.
        match version % 3 {
            0 => table.event(version, "stays", Some(u32::try_from(version).unwrap())),
            1 => table.event(version, &format!("short-{}", version / 3), Some(1)),
            _ => table.event(version, &format!("short-{}", version / 3), None),
        }
        assert!(table.followers[&id].changed.len() <= 3, "at version {version}: {:?}", table.followers[&id].changed);
    }
    table.event(10_000, "goes", None);
    assert_eq!(take(&mut table, id), [("goes".to_owned(), None), ("stays".to_owned(), Some(9_999))]);
    assert_eq!(take(&mut table, id), []);
}

#[test]
fn some_at_a_time_leaves_the_rest() {
    let mut table = Table::default();
    table.list(1, list(&[("a", 1), ("b", 2), ("c", 3)]), 0);
    let id = follow(&mut table);
    assert_eq!(table.take(id, 2).len(), 2);
    table.event(2, "c", Some(4));
    assert_eq!(table.take(id, 2), [("c".to_owned(), Some(4))]);
}

#[test]
fn a_list_tells_of_differences_only() {
    let mut table = Table::default();
    table.list(1, list(&[("same", 1), ("other", 1), ("gone", 1)]), 0);
    let id = follow(&mut table);
    take(&mut table, id);
    table.list(2, list(&[("same", 1), ("other", 2), ("new", 1)]), 1);
    let told = take(&mut table, id);
    assert_eq!(told, [("gone".to_owned(), None), ("new".to_owned(), Some(1)), ("other".to_owned(), Some(2))]);
}

#[test]
fn whoever_is_slower_of_list_and_watch_tells_nothing() {
    let mut table = Table::default();
    table.list(10, list(&[("a", 10)]), 0);
    table.event(12, "a", Some(12));
    assert!(!table.list(11, list(&[("a", 11)]), 10), "begun at 10, answered at 11, heard of after 12");
    assert_eq!(table.facts()["a"], 12);
    table.list(20, list(&[]), 12);
    table.event(15, "a", Some(15));
    assert!(table.facts().is_empty(), "it was gone by 20");
    table.bookmark(30);
    assert_eq!(table.version(), 30);
    table.bookmark(25);
    assert_eq!(table.version(), 30);
}

#[test]
fn a_list_that_is_older_than_what_was_known_before_it_is_believed() {
    let mut table = Table::default();
    table.list(100, list(&[("a", 100)]), 0);
    assert!(table.list(50, list(&[("a", 50)]), 100), "a backup was played in");
    assert_eq!((table.version(), table.facts()["a"]), (50, 50));
    assert!(!table.has_reached(40, 50), "and again: what is here does not answer for that");
    assert!(table.has_reached(50, 50));
}

#[test]
fn what_a_follower_does_not_want_any_more_is_gone_for_it() {
    let mut table = Table::default();
    table.list(1, list(&[("a", 1), ("b", 2)]), 0);
    let odd: Wanted<u32> = Box::new(|_, fact| fact % 2 == 1);
    let id = table.follow(odd, ["a".to_owned(), "never".to_owned()].into(), Arc::default());
    assert_eq!(take(&mut table, id), [("a".to_owned(), Some(1)), ("never".to_owned(), None)]);
    table.event(2, "a", Some(2));
    table.event(3, "b", Some(3));
    assert_eq!(take(&mut table, id), [("a".to_owned(), None), ("b".to_owned(), Some(3))]);
    table.unfollow(id);
    table.event(4, "b", Some(5));
    assert_eq!(take(&mut table, id), []);
}

#[test]
fn facts_that_somebody_looks_at_do_not_change() {
    let mut table = Table::default();
    table.list(1, list(&[("a", 1)]), 0);
    let looked_at = table.facts();
    table.event(2, "a", Some(2));
    assert_eq!((looked_at["a"], table.facts()["a"]), (1, 2));
}
