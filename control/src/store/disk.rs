//! The state directory: its lock, the store's file in it, and what other programs do to both.
//!
//! A file that is gone or another one is noticed before a change is acknowledged and once a second, and
//! is written anew from memory. inotify would not tell of a mount over the directory, or of a change of
//! name above it, so the path is asked.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{
    FILE, Row,
    file::{self, Left, Open, content, finish, kept_as, kept_in, lock, rehearse},
    named,
    records::Records,
    swap,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

/// What there is where the store should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    /// The store.
    Store,
    /// Nothing.
    Nothing,
    /// Another file.
    Other,
    /// The store's file, with other content.
    Changed,
}

/// The state directory.
pub(super) struct Disk {
    dir: PathBuf,
    path: PathBuf,
    /// Held on the directory.
    lock: File,
    /// Absent after a failure, until it is opened again.
    open: Option<Open>,
    /// The file that was the store when it was open last.
    left: Left,
    /// What is wrong and was not put right.
    wrong: Option<String>,
    /// Files that were in the place of the store.
    kept: Vec<PathBuf>,
}

impl Disk {
    /// Opens the store in `dir`, which is made if it is not there. A file that cannot be read is left as
    /// it is.
    pub(super) fn open(dir: &Path) -> Result<(Self, Records)> {
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        let creating = || format!("cannot create {}", path.display());
        finish(&path, &lock).doing(creating)?;
        let (open, records) = if fs::symlink_metadata(&path).is_ok() {
            Open::read(&path)?
        } else {
            let empty = Records::default();
            (file::write(&path, &empty, &lock).doing(creating)?.0, empty)
        };
        let (left, kept) = (open.left(), kept_in(dir));
        let dir = dir.to_owned();
        Ok((Self { dir, path, lock, open: Some(open), left, wrong: None, kept }, records))
    }

    /// Makes changes to the file, and to `records` once they are where they last.
    pub(super) fn change(&mut self, records: &mut Records, rows: &[Row]) -> Result<u64> {
        let doing = || format!("cannot write {}", named(rows));
        if let Some(conflict) = records.conflict(rows) {
            return Err(conflict);
        }
        self.look(records).doing(doing)?;
        let Some(open) = &self.open else {
            return Err(Error::failed(format!("{} is not open", self.path.display()))).doing(doing);
        };
        match swap(&open.database, rows) {
            Ok(Ok(revision)) => {
                failpoint!("store.written");
                self.touch();
                self.settle(records, rows, revision).doing(doing)?;
                Ok(revision)
            }
            Ok(Err(conflict)) => Err(conflict),
            Err(e) => self.look_again(records, rows).ok_or_else(|| {
                Error::failed(format!(
                    "cannot write {} to {}: {e}; see that the disk has room and is not read-only",
                    named(rows),
                    self.path.display()
                ))
            }),
        }
    }

    /// Takes over changes that are in the open file, if that is where it belongs, or can be put there.
    fn settle(&mut self, records: &mut Records, rows: &[Row], revision: u64) -> Result<()> {
        if self.is_untouched() {
            records.apply(rows, revision);
            return Ok(());
        }
        let mut after = records.clone();
        after.apply(rows, revision);
        self.look(&after)?;
        *records = after;
        Ok(())
    }

    /// After a failure: the revision of what was to be written, if it was written all the same. The file
    /// is opened again, and what it says then is what counts: all of it was written, or nothing.
    fn look_again(&mut self, records: &mut Records, rows: &[Row]) -> Option<u64> {
        self.close();
        let revision = records.next_revision();
        let mut after = records.clone();
        after.apply(rows, revision);
        let (file, found) = self.store_at_path().ok()?;
        if found != *records && found != after {
            return None;
        }
        self.open = Open::rehearsed(&self.path, file).ok();
        self.touch();
        let is_written = found == after && self.open.is_some();
        if is_written {
            *records = after;
        }
        is_written.then_some(revision)
    }

    /// What the store at the path holds, if it is the file that was open last.
    fn store_at_path(&self) -> Result<(File, Records)> {
        let (file, bytes) = content(&self.path)?;
        if !Left::from(&file.metadata()?).is_same_file(&self.left) {
            return Err(Error::failed("it is another file"));
        }
        let found = rehearse(&self.path, &bytes)?;
        Ok((file, found.records))
    }

    /// Sees to it that a file with these records is where it belongs.
    pub(super) fn look(&mut self, records: &Records) -> Result<()> {
        let done = self.put_right(records).map_err(|e| Error {
            message: format!("{}; until then changes are refused, and traffic goes on", e.message),
            ..e
        });
        let wrong = done.as_ref().err().map(|e| e.message.clone());
        if let Some(wrong) = wrong.as_ref().filter(|wrong| self.wrong.as_ref() != Some(wrong)) {
            tracing::error!("{wrong}");
        }
        self.wrong = wrong;
        done
    }

    fn put_right(&mut self, records: &Records) -> Result<()> {
        if self.is_untouched() {
            return Ok(());
        }
        self.hold_directory()?;
        let there = self.there(records)?;
        let path = self.path.display();
        let what = match there {
            There::Store => return Ok(()),
            There::Nothing => format!("the store {path} was removed, or moved away"),
            There::Other => format!("another file has taken the place of the store {path}"),
            There::Changed => format!("the store {path} was changed by another program"),
        };
        // Whatever has become of it stays so.
        self.close();
        let (open, kept) = file::write(&self.path, records, &self.lock).map_err(|e| {
            Error::failed(format!(
                "{what}, and cannot be written anew: {e}; see that the disk has room and is not read-only"
            ))
        })?;
        tracing::error!("{what}, and was written anew from memory{}", kept_as(kept.as_deref()));
        (self.left, self.open) = (open.left(), Some(open));
        self.kept.extend(kept.filter(|kept| !self.kept.contains(kept)));
        if self.is_untouched() {
            return Ok(());
        }
        Err(Error::failed(format!(
            "{what}, and again when it was written anew; see which program does so"
        )))
    }

    /// True if the directory that is locked and the file that is open are where they belong, and no
    /// other program has written to the file.
    fn is_untouched(&self) -> bool {
        let is_at = |open: &Open| {
            fs::metadata(&self.path).is_ok_and(|found| Left::from(&found) == open.left())
        };
        self.open.as_ref().is_some_and(is_at) && file::is_at(&self.lock, &self.dir).unwrap_or(false)
    }

    /// Makes the directory again if it is gone, and locks it if it is another one.
    fn hold_directory(&mut self) -> Result<()> {
        let doing = || format!("cannot use state directory {}", self.dir.display());
        if !file::is_at(&self.lock, &self.dir).doing(doing)? {
            self.lock = lock(&self.dir)?;
        }
        Ok(())
    }

    /// Looks what there is at the path; the store is opened if it is not.
    fn there(&mut self, records: &Records) -> Result<There> {
        let doing = || format!("cannot read {}", self.path.display());
        let found = match fs::metadata(&self.path) {
            Ok(found) => Left::from(&found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A symbolic link that leads nowhere is something.
                let is_there = fs::symlink_metadata(&self.path).is_ok();
                return Ok(if is_there { There::Other } else { There::Nothing });
            }
            Err(e) => return Err(e).doing(doing),
        };
        if !found.is_same_file(&self.left) {
            return Ok(There::Other);
        }
        if self.open.as_ref().is_some_and(|open| open.left() == found) {
            return Ok(There::Store);
        }
        let (file, bytes) = content(&self.path).doing(doing)?;
        if !rehearse(&self.path, &bytes).is_ok_and(|found| found.records == *records) {
            return Ok(There::Changed);
        }
        if self.open.is_none() {
            self.open = Some(Open::rehearsed(&self.path, file)?);
        }
        self.touch();
        Ok(There::Store)
    }

    /// Notes how this process has left the file.
    fn touch(&mut self) {
        if let Some(open) = &mut self.open
            && open.touch().is_ok()
        {
            self.left = open.left();
        }
    }

    /// Closes the file, and leaves it as it is.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.seal();
        }
    }

    /// What users have to know: why the store cannot be written, and which files were in its place.
    pub(super) fn problems(&mut self) -> Vec<String> {
        self.kept.retain(|kept| fs::symlink_metadata(kept).is_ok());
        let kept = self.kept.iter().map(|kept| {
            format!(
                "another file was in the place of the store {} and is kept as {}; see what it is, then move it \
                 away or remove it",
                self.path.display(),
                kept.display()
            )
        });
        self.wrong.iter().cloned().chain(kept).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if !self.is_untouched() {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Change;

    /// A file that goes after it was looked at, and while a change is written to it, is noticed before the
    /// change is acknowledged: it is written anew with the change, or the change is refused.
    #[test]
    fn a_file_that_goes_during_a_commit_is_noticed() {
        for can_be_written in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (mut disk, mut records) = Disk::open(dir.path()).unwrap();
            let row = |key| [Row::from(Change::put(key, &json!({ "a": 1 }), None).unwrap())];
            disk.change(&mut records, &row("children/web")).unwrap();
            let before = records.clone();
            let rows = row("children/late");
            let revision = swap(&disk.open.as_ref().unwrap().database, &rows).unwrap().unwrap();
            disk.touch();
            fs::remove_file(&disk.path).unwrap();
            let obstacle = dir.path().join(format!("{FILE}.new"));
            if !can_be_written {
                fs::create_dir(&obstacle).unwrap();
            }
            let settled = disk.settle(&mut records, &rows, revision);
            assert_eq!(settled.is_ok(), can_be_written, "{settled:?}");
            let mut expected = before;
            if can_be_written {
                expected.apply(&rows, revision);
            } else {
                fs::remove_dir(&obstacle).unwrap();
                disk.look(&records).unwrap();
            }
            assert_eq!(records, expected);
            drop(disk);
            assert_eq!(Disk::open(dir.path()).unwrap().1, expected);
        }
    }
}
