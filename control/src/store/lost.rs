//! What other programs do to the file and the directory of a store that is open: nothing that was
//! acknowledged is lost, and no file of theirs is.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::error::ErrorKind;

type Content = Vec<(String, Versioned)>;

/// A store with a network and a child, in the folder `state` of another one.
struct Site {
    above: TempDir,
    store: Option<RedbStore>,
}

impl Site {
    async fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&above.path().join("state")).unwrap();
        let site = Self { above, store: Some(store) };
        site.put("networks/lan").await.unwrap();
        site.put("children/web").await.unwrap();
        site
    }

    fn dir(&self) -> PathBuf {
        self.above.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.dir().join(FILE)
    }

    fn aside(&self) -> PathBuf {
        self.above.path().join("aside")
    }

    fn kept(&self, number: u32) -> PathBuf {
        self.dir().join(format!("{FILE}.kept-{number}"))
    }

    fn store(&self) -> &RedbStore {
        self.store.as_ref().unwrap()
    }

    async fn put(&self, key: &str) -> Result<u64> {
        self.store().put_if(key, json!({ "name": key }), None).await
    }

    async fn content(&self) -> Content {
        self.store().list("").await.unwrap()
    }

    /// What the next daemon finds.
    async fn reopened(&mut self) -> Content {
        self.store = None;
        self.store = Some(RedbStore::open(&self.dir()).unwrap());
        self.content().await
    }
}

/// The bytes of a store with other content.
async fn other_store() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    store.put_if("children/other", json!(1), None).await.unwrap();
    drop(store);
    fs::read(dir.path().join(FILE)).unwrap()
}

/// A file that is removed or moved away is there again before a change is acknowledged, with every
/// record and its revision.
#[tokio::test]
async fn a_removed_file_is_written_anew() {
    for moved in [false, true] {
        let mut site = Site::new().await;
        let before = site.content().await;
        if moved {
            fs::rename(site.file(), site.aside()).unwrap();
        } else {
            fs::remove_file(site.file()).unwrap();
        }
        let revision = site.put("children/late").await.unwrap();
        let on_disk = fs::read(site.file()).unwrap();
        assert_eq!(site.store().look().await, [""; 0]);
        let after = site.reopened().await;
        let late = after.iter().find(|(key, _)| key == "children/late").unwrap();
        assert_eq!(late.1.revision, revision);
        let kept: Content =
            after.iter().filter(|(key, _)| key != "children/late").cloned().collect();
        assert_eq!(kept, before, "the revisions are the same");
        // What was there when the change was acknowledged is enough.
        site.store = None;
        fs::write(site.file(), on_disk).unwrap();
        assert_eq!(site.reopened().await, after);
        let next = site.put("children/next").await.unwrap();
        assert!(next > revision, "a revision comes back");
    }
}

/// Without any change, a look is enough.
#[tokio::test]
async fn a_look_writes_the_file_anew() {
    let mut site = Site::new().await;
    let before = site.content().await;
    fs::remove_file(site.file()).unwrap();
    assert_eq!(site.store().look().await, [""; 0]);
    assert!(site.file().exists());
    assert_eq!(site.reopened().await, before);
}

/// What was put in the place of the store is kept as it is, under the name that is reported, and is
/// never read as the store.
#[tokio::test]
async fn a_file_in_its_place_is_kept() {
    let older = {
        let site = Site::new().await;
        fs::read(site.file()).unwrap()
    };
    let other = other_store().await;
    let cases = [
        ("an older copy", older),
        ("another store", other),
        ("a script", b"#!/bin/sh\n".repeat(500)),
        ("an empty file", Vec::new()),
    ];
    for in_place in [false, true] {
        for (case, bytes) in &cases {
            let mut site = Site::new().await;
            site.put("children/late").await.unwrap();
            let before = site.content().await;
            if in_place {
                // As `cp` does it: the inode stays.
                fs::write(site.file(), bytes).unwrap();
            } else {
                fs::write(site.aside(), bytes).unwrap();
                fs::rename(site.aside(), site.file()).unwrap();
            }
            site.put("children/last").await.unwrap();
            let problems = site.store().look().await.join("\n");
            assert!(problems.contains(&site.kept(1).display().to_string()), "{case}: {problems}");
            assert_eq!(site.store().get("children/other").await.unwrap(), None, "{case}");
            let after = site.reopened().await;
            assert_eq!(after.len(), before.len() + 1, "{case}");
            assert!(before.iter().all(|record| after.contains(record)), "{case}");
            assert!(fs::read(site.kept(1)).unwrap() == *bytes, "{case} was changed");
            // The next daemon reports it as well, until it is gone.
            let problems = site.store().look().await.join("\n");
            assert!(problems.contains(&site.kept(1).display().to_string()), "{case}: {problems}");
            fs::remove_file(site.kept(1)).unwrap();
            assert_eq!(site.store().look().await, [""; 0], "{case}");
        }
    }
}

/// Folders and links, too, are kept beside it, and one after the other has a name of its own.
#[tokio::test]
async fn what_is_no_file_is_kept_too() {
    let mut site = Site::new().await;
    let before = site.content().await;
    fs::remove_file(site.file()).unwrap();
    fs::create_dir(site.file()).unwrap();
    fs::write(site.file().join("note"), "mine").unwrap();
    site.store().look().await;
    fs::remove_file(site.file()).unwrap();
    symlink("/nonexistent/place", site.file()).unwrap();
    site.store().look().await;
    fs::remove_file(site.file()).unwrap();
    nix::unistd::mkfifo(&site.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    site.store().look().await;
    assert_eq!(fs::read_to_string(site.kept(1).join("note")).unwrap(), "mine");
    assert_eq!(fs::read_link(site.kept(2)).unwrap(), Path::new("/nonexistent/place"));
    assert!(site.kept(3).exists());
    assert_eq!(site.reopened().await, before);
}

/// A file that was only touched, or has the same content again, is the store.
#[tokio::test]
async fn the_same_content_is_no_change() {
    let mut site = Site::new().await;
    let before = site.content().await;
    let inode = fs::metadata(site.file()).unwrap().ino();
    fs::File::options()
        .write(true)
        .open(site.file())
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    site.put("children/late").await.unwrap();
    let bytes = fs::read(site.file()).unwrap();
    fs::write(site.file(), bytes).unwrap();
    assert_eq!(site.store().look().await, [""; 0]);
    site.put("children/last").await.unwrap();
    assert_eq!(fs::metadata(site.file()).unwrap().ino(), inode, "it was written anew");
    assert_eq!(site.reopened().await.len(), before.len() + 2);
}

/// A directory that is gone is made again, and one that was put in its place is used, both locked
/// like the first.
#[tokio::test]
async fn another_directory_gets_the_store_and_the_lock() {
    let other = other_store().await;
    for case in 0..4 {
        let mut site = Site::new().await;
        let before = site.content().await;
        match case {
            0 => fs::remove_dir_all(site.dir()).unwrap(),
            _ => fs::rename(site.dir(), site.aside()).unwrap(),
        }
        if case >= 2 {
            fs::create_dir(site.dir()).unwrap();
        }
        if case == 3 {
            fs::write(site.file(), &other).unwrap();
        }
        site.put("children/late").await.unwrap();
        assert!(site.file().exists(), "case {case}");
        let second = RedbStore::open(&site.dir()).err().expect("the lock is held");
        assert_eq!(second.kind, ErrorKind::Conflict, "case {case}: {second}");
        assert_eq!(site.reopened().await.len(), before.len() + 1, "case {case}");
        if case == 3 {
            assert!(fs::read(site.kept(1)).unwrap() == other, "the other store was changed");
        }
    }
}

/// A directory that another daemon has begun to use is left to it: changes are refused, and that
/// daemon's store stays as it is.
#[tokio::test]
async fn a_directory_of_another_daemon_is_left_alone() {
    let mut site = Site::new().await;
    let before = site.content().await;
    fs::rename(site.dir(), site.aside()).unwrap();
    let second = RedbStore::open(&site.dir()).unwrap();
    second.put_if("children/theirs", json!(1), None).await.unwrap();
    let refused = site.put("children/late").await.unwrap_err();
    for word in ["children/late", "another maclane daemon uses", "changes are refused"] {
        assert!(refused.message.contains(word), "\"{word}\" is not in: {refused}");
    }
    assert!(site.store().look().await[0].contains("another maclane daemon uses"));
    assert_eq!(site.content().await, before, "what was refused is not there");
    assert_eq!(second.list("").await.unwrap().len(), 1);
    drop(second);
    site.put("children/late").await.unwrap();
    assert_eq!(site.reopened().await.len(), before.len() + 1);
    assert!(site.kept(1).exists(), "the store of the other daemon is gone");
}

/// A store that cannot be written anew refuses changes, says why, and is tried again.
#[tokio::test]
async fn what_cannot_be_written_is_refused() {
    let mut site = Site::new().await;
    let before = site.content().await;
    // Nothing can be begun under a name that a folder has.
    let obstacle = site.dir().join(format!("{FILE}.new"));
    fs::create_dir_all(obstacle.join("full")).unwrap();
    fs::remove_file(site.file()).unwrap();
    for _ in 0..2 {
        let refused = site.put("children/late").await.unwrap_err();
        for word in ["children/late", FILE, "was removed", "written anew", "changes are refused"] {
            assert!(refused.message.contains(word), "\"{word}\" is not in: {refused}");
        }
        assert_eq!(site.content().await, before);
        assert_eq!(site.store().look().await.len(), 1);
    }
    fs::remove_dir_all(&obstacle).unwrap();
    assert_eq!(site.store().look().await, [""; 0]);
    site.put("children/late").await.unwrap();
    assert_eq!(site.reopened().await.len(), before.len() + 1);
}

/// What has the name of a store that was begun, and is none, keeps no daemon from its store.
#[tokio::test]
async fn an_obstacle_is_not_in_the_way_of_a_store() {
    let mut site = Site::new().await;
    let before = site.content().await;
    fs::create_dir(site.dir().join(format!("{FILE}.new"))).unwrap();
    assert_eq!(site.reopened().await, before);
}

/// A store that was complete when the daemon was killed takes its place at the next start, where what it
/// replaces is there still; else it is removed.
#[tokio::test]
async fn a_store_that_was_begun_is_finished() {
    let begun = |site: &Site| site.dir().join(format!("{FILE}.new"));
    // As a daemon leaves it that is killed before it gives the new file its name.
    let killed = async |replaced: Option<&[u8]>| {
        let mut site = Site::new().await;
        let before = site.content().await;
        fs::remove_file(site.file()).unwrap();
        if let Some(bytes) = replaced {
            fs::write(site.file(), bytes).unwrap();
        }
        let records = locked(&site.store().held).records.clone();
        site.store = None;
        drop(file::begin(&site.file(), &records).unwrap());
        assert!(begun(&site).exists());
        (site, before)
    };
    let (mut site, before) = killed(None).await;
    assert_eq!(site.reopened().await, before, "the file was gone");
    let script = b"#!/bin/sh\n".repeat(10);
    let (mut site, before) = killed(Some(&script)).await;
    assert_eq!(site.reopened().await, before, "another file was there");
    assert!(fs::read(site.kept(1)).unwrap() == script);
    // A folder has one name only.
    let (mut site, before) = killed(Some(&script)).await;
    fs::rename(site.file(), site.kept(1)).unwrap();
    assert_eq!(site.reopened().await, before, "another file was kept");
    assert!(fs::read(site.kept(1)).unwrap() == script);
    // A backup that was put there meanwhile counts, and so does the wish to begin anew.
    let other = other_store().await;
    let (mut site, _) = killed(Some(&script)).await;
    fs::remove_file(site.file()).unwrap();
    fs::write(site.file(), &other).unwrap();
    assert_eq!(site.reopened().await[0].0, "children/other");
    assert!(!begun(&site).exists());
    let (mut site, _) = killed(Some(&script)).await;
    fs::remove_file(site.file()).unwrap();
    assert_eq!(site.reopened().await, []);
    // Half of one is nothing.
    let (mut site, _) = killed(None).await;
    let bytes = fs::read(begun(&site)).unwrap();
    fs::write(begun(&site), &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(site.reopened().await, []);
}

/// Whatever is done to the file between any two changes, what was acknowledged is there at the next start.
#[tokio::test]
async fn no_sequence_of_faults_loses_a_change() {
    let other = other_store().await;
    let mut random = 0x9e37_79b9_u32;
    let mut below = move |limit: u32| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random % limit
    };
    let mut site = Site::new().await;
    let mut model: BTreeMap<String, Versioned> = site.content().await.into_iter().collect();
    for step in 0..400 {
        match below(12) {
            0 => drop(fs::remove_file(site.file())),
            1 => fs::write(site.file(), &other).unwrap(),
            2 => {
                fs::write(site.aside(), &other).unwrap();
                fs::rename(site.aside(), site.file()).unwrap();
            }
            3 => fs::remove_dir_all(site.dir()).unwrap(),
            4 => fs::File::options().write(true).open(site.file()).unwrap().set_len(10).unwrap(),
            5 => {
                site.store().look().await;
                assert_eq!(site.reopened().await, model.clone().into_iter().collect::<Content>());
            }
            _ => {}
        }
        let key = format!("children/{}", below(20));
        let expected = model.get(&key).map(|found| found.revision);
        let value = (below(4) != 0 || expected.is_none()).then(|| json!({ "step": step }));
        let change = Change { key: key.clone(), value: value.clone(), expected };
        let revision = site.store().change(vec![change]).await.unwrap();
        match value {
            Some(value) => model.insert(key, Versioned { value, revision }),
            None => model.remove(&key),
        };
    }
    let content = site.reopened().await;
    assert_eq!(content, model.into_iter().collect::<Content>());
}

/// A file that goes while a change is being written: what is acknowledged then is at the path.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_meanwhile_loses_no_change() {
    let site = Site::new().await;
    let (file, other) = (site.file(), other_store().await);
    let stop = Arc::new(AtomicBool::new(false));
    let fault = thread::spawn({
        let stop = stop.clone();
        move || {
            let mut faults = 0;
            while !stop.load(Ordering::Relaxed) {
                if faults % 2 == 0 {
                    let _ = fs::remove_file(&file);
                } else {
                    let aside = file.with_extension("aside");
                    fs::write(&aside, &other).unwrap();
                    let _ = fs::rename(aside, &file);
                }
                faults += 1;
                thread::sleep(std::time::Duration::from_millis(3));
            }
            faults
        }
    });
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for number in 0..200 {
        let key = format!("children/{number}");
        match site.put(&key).await {
            Ok(revision) => acknowledged.push((key, revision)),
            Err(e) => {
                assert!(e.message.contains("written anew"), "{e}");
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let faults = fault.join().unwrap();
    assert!(faults > 10 && !acknowledged.is_empty(), "{faults} faults, {refused} refused");
    let mut site = site;
    site.store().look().await;
    let content: BTreeMap<String, Versioned> = site.reopened().await.into_iter().collect();
    for (key, revision) in &acknowledged {
        assert_eq!(content.get(key).map(|found| found.revision), Some(*revision), "{key}");
    }
    assert_eq!(content.len(), acknowledged.len() + 2, "what was refused is there");
}
