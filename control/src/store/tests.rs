//! What the store promises: compare-and-set, durability, and that a file which it cannot read
//! stays as it is.

use std::fs;

use serde_json::json;

use super::*;
use crate::error::ErrorKind;

/// A store with two networks and a child, closed again; its file's bytes.
async fn filled(dir: &Path) -> Vec<u8> {
    let store = RedbStore::open(dir).unwrap();
    for key in ["networks/lan", "networks/lan50", "children/web"] {
        store.put_if(key, json!({"name": key}), None).await.unwrap();
    }
    drop(store);
    fs::read(dir.join(FILE)).unwrap()
}

fn refusal(dir: &Path) -> Option<Error> {
    RedbStore::open(dir).err()
}

#[tokio::test]
async fn a_change_needs_the_revision_that_it_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    let first = store.put_if("networks/lan", json!(1), None).await.unwrap();
    let second = store.put_if("networks/lan", json!(2), Some(first)).await.unwrap();
    assert!(second > first);

    let conflicts = [
        store.put_if("networks/lan", json!(3), None).await.unwrap_err(),
        store.put_if("networks/lan", json!(3), Some(first)).await.unwrap_err(),
        store.put_if("networks/other", json!(3), Some(first)).await.unwrap_err(),
        store.delete_if("networks/lan", first).await.unwrap_err(),
        store.delete_if("networks/other", first).await.unwrap_err(),
    ];
    for conflict in conflicts {
        assert_eq!(conflict.kind, ErrorKind::Conflict, "{conflict}");
    }
    let kept = store.get("networks/lan").await.unwrap();
    assert_eq!(kept, Some(Versioned { value: json!(2), revision: second }));

    store.delete_if("networks/lan", second).await.unwrap();
    assert_eq!(store.get("networks/lan").await.unwrap(), None);
    let again = store.put_if("networks/lan", json!(2), None).await.unwrap();
    assert!(again > second, "a revision never comes back");
}

#[tokio::test]
async fn changes_that_are_made_together_are_made_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    let lan = store.put_if("networks/lan", json!(1), None).await.unwrap();
    let all = |expected| {
        vec![
            Change::put("children/a", &1, None).unwrap(),
            Change::put("children/b", &2, None).unwrap(),
            Change::delete("networks/lan", expected),
        ]
    };
    let conflict = store.change(all(lan + 1)).await.unwrap_err();
    assert_eq!(conflict.kind, ErrorKind::Conflict, "{conflict}");
    assert!(conflict.message.contains("networks/lan"), "{conflict}");
    let keys = async || -> Vec<String> {
        store.list("").await.unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys().await, ["networks/lan"]);
    let revision = store.change(all(lan)).await.unwrap();
    assert_eq!(keys().await, ["children/a", "children/b"]);
    for key in ["children/a", "children/b"] {
        assert_eq!(store.get(key).await.unwrap().unwrap().revision, revision);
    }
    let next = store.put_if("networks/lan", json!(1), None).await.unwrap();
    assert!(next > revision, "no two changes have the same revision");
}

#[tokio::test]
async fn a_list_holds_the_keys_of_its_prefix_in_order() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = RedbStore::open(dir.path()).unwrap();
    let names = |found: Vec<(String, Versioned)>| found.into_iter().map(|(key, _)| key);
    assert!(names(store.list(NETWORKS).await.unwrap()).eq(["networks/lan", "networks/lan50"]));
    assert!(names(store.list(PARENTS).await.unwrap()).eq([""; 0]));
    assert!(names(store.list("").await.unwrap()).len() == 3);
}

#[tokio::test]
async fn values_come_back_as_the_type_that_was_written() {
    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Thing {
        size: u8,
    }
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    let revision = store.put_as("children/web", &Thing { size: 3 }, None).await.unwrap();
    let found = store.get_as::<Thing>("children/web").await.unwrap();
    assert_eq!(found, Some(Versioned { value: Thing { size: 3 }, revision }));
    assert_eq!(store.list_as::<Thing>(CHILDREN).await.unwrap()[0].0, "web");

    let other = store.get_as::<Vec<u8>>("children/web").await.unwrap_err();
    assert!(other.message.contains("children/web"), "{other}");
    assert!(other.message.contains(&store.place()), "{other}");
}

#[tokio::test]
async fn state_survives_reopening_and_killing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let store = RedbStore::open(dir.path()).unwrap();
    let revision = store.put_if("parents/eth0", json!({}), None).await.unwrap();
    // As a killed daemon leaves it: never closed.
    let killed = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(FILE), killed.path().join(FILE)).unwrap();
    drop(store);

    for dir in [dir, killed] {
        let store = RedbStore::open(dir.path()).unwrap();
        let found = store.get("parents/eth0").await.unwrap().unwrap();
        assert_eq!(found.revision, revision);
        assert_eq!(store.list("").await.unwrap().len(), 4);
    }
}

#[tokio::test]
async fn only_root_may_enter_the_state_directory() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("lib/maclane");
    let _store = RedbStore::open(&state).unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _store = RedbStore::open(dir.path()).unwrap();
    let second = refusal(dir.path()).unwrap();
    assert_eq!(second.kind, ErrorKind::Conflict);
    assert!(second.message.starts_with("another maclane daemon uses this state directory"));
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let path = dir.path().join(FILE);
    let mut cases = vec![
        ("garbage".to_owned(), b"not a database".repeat(1000)),
        ("empty".to_owned(), Vec::new()),
        ("zeros".to_owned(), vec![0; whole.len()]),
    ];
    for part in [1, 9, 64, 512, 4096, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
        cases.push((format!("truncated to {part}"), whole[..part].to_vec()));
    }
    for (case, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        let refused = refusal(dir.path()).unwrap_or_else(|| panic!("{case} is taken"));
        assert!(refused.message.contains(&path.display().to_string()), "{case}: {refused}");
        assert!(fs::read(&path).unwrap() == bytes, "{case} was changed");
    }
    fs::write(&path, &whole).unwrap();
    assert!(refusal(dir.path()).is_none(), "the whole file is taken");
}

#[tokio::test]
async fn no_flipped_byte_loses_a_record_silently() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let used = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
    for at in used.step_by(149) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(dir.path().join(FILE), &bytes).unwrap();
        match RedbStore::open(dir.path()) {
            Ok(store) => assert_eq!(store.list("").await.unwrap().len(), 3, "byte {at}"),
            Err(_) => assert!(fs::read(dir.path().join(FILE)).unwrap() == bytes, "byte {at}"),
        }
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let path = dir.path().join(FILE);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(META_SCHEMA, SCHEMA + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let bytes = fs::read(&path).unwrap();
    let refused = refusal(dir.path()).unwrap();
    assert!(refused.message.contains("newer maclane"), "{refused}");
    assert!(fs::read(&path).unwrap() == bytes);
}
