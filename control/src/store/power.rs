//! A power cut at any moment of a change, and damage to any byte: the store is what it was before
//! or after the change, or it is refused and left as it is.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex},
};

use redb::{ReadableDatabase, StorageBackend};
use serde_json::json;

use ::tests::length::{STORE_CUTS, STORE_DAMAGE_STEP, STORE_TEAR_STEP};

use super::*;

/// What a disk is told.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

/// A disk in memory that writes down what it is told.
#[derive(Debug)]
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = place(offset);
        out.copy_from_slice(&self.bytes.lock().unwrap()[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Step::Length(place(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Step::Write(place(offset), data.to_vec()));
        Ok(())
    }
}

impl Recorder {
    fn note(&self, step: Step) {
        perform(&mut self.bytes.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
    }
}

fn perform(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, data) => bytes[*at..at + data.len()].copy_from_slice(data),
        Step::Length(length) => bytes.resize(*length, 0),
        Step::Sync => {}
    }
}

fn perform_all(bytes: &mut Vec<u8>, steps: &[Step]) {
    for step in steps {
        perform(bytes, step);
    }
}

type Records = BTreeMap<String, Value>;

/// A value long enough to need pages of its own.
fn value(name: &str, length: usize) -> Value {
    json!({ "name": name, "text": "x".repeat(length) })
}

fn records() -> Records {
    let all = [("networks/lan", 10), ("networks/lan50", 3000), ("children/web", 200)];
    all.map(|(key, length)| (key.to_owned(), value(key, length))).into()
}

/// The bytes of a store with [`records`].
async fn filled(dir: &Path) -> Vec<u8> {
    let store = RedbStore::open(dir).unwrap();
    for (key, value) in records() {
        store.put_if(&key, value, None).await.unwrap();
    }
    drop(store);
    fs::read(dir.join(FILE)).unwrap()
}

/// What a store with these bytes holds; the error if it is refused, and then the file is untouched.
async fn opened(dir: &Path, bytes: &[u8]) -> Result<Records> {
    let path = dir.join(FILE);
    fs::write(&path, bytes).unwrap();
    match RedbStore::open(dir) {
        Ok(store) => {
            let all = store.list("").await?;
            Ok(all.into_iter().map(|(key, found)| (key, found.value)).collect())
        }
        Err(e) => {
            assert!(e.message.contains(&path.display().to_string()), "{e}");
            assert!(e.message.contains("move it away"), "{e}");
            assert!(fs::read(&path).unwrap() == bytes, "a refused file was changed: {e}");
            Err(e)
        }
    }
}

/// Every image that a disk may have if the power is cut after some of the steps: what was synced is
/// there, and of what came after any part.
fn images(base: &[u8], steps: &[Step]) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    let mut random = 0x9e37_79b9_u32;
    let mut synced = base.to_vec();
    let mut open = 0;
    for cut in 0..=steps.len() {
        let pending = &steps[open..cut];
        let mut image = synced.clone();
        perform_all(&mut image, pending);
        images.push(image.clone());
        if let Some(Step::Write(at, data)) = steps.get(cut) {
            // Torn in its middle, at a sector, and at bytes that it changes.
            let changed = (1..data.len()).filter(|part| image[at + part - 1] != data[part - 1]);
            let changed = changed.step_by(STORE_TEAR_STEP.get() as usize);
            for part in [data.len() / 2, data.len().min(512)].into_iter().chain(changed) {
                let mut image = image.clone();
                perform(&mut image, &Step::Write(*at, data[..part].to_vec()));
                images.push(image);
            }
        }
        for _ in 0..if pending.is_empty() { 0 } else { 6 } {
            let mut image = synced.clone();
            for step in pending {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                if random & 1 == 0 || matches!(step, Step::Length(_)) {
                    perform(&mut image, step);
                }
            }
            images.push(image);
        }
        if matches!(steps.get(cut), Some(Step::Sync)) {
            perform_all(&mut synced, &steps[open..cut]);
            open = cut + 1;
        }
    }
    images
}

#[tokio::test]
async fn a_power_cut_leaves_the_store_as_before_or_after_the_change() {
    let dir = tempfile::tempdir().unwrap();
    let base = filled(dir.path()).await;
    let before = records();
    for changes in [
        vec![("children/late", Some(value("late", 100)))],
        vec![("children/long", Some(value("long", 60_000)))],
        vec![("networks/lan50", Some(value("changed", 20)))],
        vec![("children/web", None)],
        vec![
            ("children/late", Some(value("late", 900))),
            ("children/web", None),
            ("networks/lan50", Some(value("changed", 20))),
        ],
    ] {
        let key = changes[0].0;
        let mut after = before.clone();
        let steps = Arc::<Mutex<Vec<Step>>>::default();
        let disk = Recorder { bytes: Mutex::new(base.clone()), steps: Arc::clone(&steps) };
        let database = Database::builder().create_with_backend(disk).unwrap();
        let mut rows = Vec::new();
        for (key, new) in changes {
            let transaction = database.begin_read().unwrap();
            let table = transaction.open_table(RECORDS).unwrap();
            let expected = table.get(key).unwrap().map(|entry| entry.value().0);
            rows.push(Row::from(Change { key: key.to_owned(), value: new.clone(), expected }));
            match new {
                Some(value) => after.insert(key.to_owned(), value),
                None => after.remove(key),
            };
        }
        swap(&database, &rows).unwrap().unwrap();
        let written = steps.lock().unwrap().clone();
        assert!(written.iter().any(|step| matches!(step, Step::Sync)), "nothing is synced");
        let (mut old, mut changed) = (0, 0);
        for image in images(&base, &written) {
            match opened(dir.path(), &image).await {
                Ok(found) if found == before => old += 1,
                Ok(found) if found == after => changed += 1,
                Ok(found) => panic!("{key}: neither before nor after: {:?}", found.keys()),
                Err(e) => panic!("{key}: a power cut makes the store unreadable: {e}"),
            }
        }
        assert!(old > 0 && changed > 0, "{key}: {old} before, {changed} after");
        // What was acknowledged is there.
        let mut last = base.clone();
        perform_all(&mut last, &written);
        assert_eq!(opened(dir.path(), &last).await.unwrap(), after, "{key}");
    }
}

#[tokio::test]
async fn no_damaged_byte_changes_a_record_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    let used = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
    for (number, at) in used.step_by(STORE_DAMAGE_STEP.get() as usize).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= [0x01, 0x80, 0xff][number % 3];
        if let Ok(found) = opened(dir.path(), &bytes).await {
            assert_eq!(found, records(), "byte {at}");
        }
    }
}

#[tokio::test]
async fn no_lost_end_changes_a_record_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = filled(dir.path()).await;
    for length in (0..whole.len()).step_by((whole.len() / STORE_CUTS.get() as usize).max(1)) {
        if let Ok(found) = opened(dir.path(), &whole[..length]).await {
            assert_eq!(found, records(), "{length} bytes");
        }
    }
}
