//! The file of a store: filled, rehearsed, opened, and put in its place.

use std::{
    fs::{self, DirBuilder, File, Metadata, TryLockError},
    io::{self, Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{
    Database, DatabaseError, ReadableDatabase, StorageBackend as _, TableError,
    backends::InMemoryBackend,
};

use super::{
    FILE, META, META_SCHEMA, SCHEMA, in_use,
    records::{Records, replaced},
    sealed::Sealable,
};
use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

/// What tells a file from others of its folder, also after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its inode number.
    pub(super) inode: u64,
    /// When it was written last, in nanoseconds since 1970.
    pub(super) modified: u64,
}

impl Place {
    /// What is at a path itself, be it a symbolic link; `None` if there is nothing.
    pub(super) fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(Self { inode: found.ino(), modified: modified(&found) })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn modified(found: &Metadata) -> u64 {
    let seconds = u64::try_from(found.mtime()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec().unsigned_abs())
}

/// A file as it was left by this process: what another process does to it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    device: u64,
    inode: u64,
    size: u64,
    modified: u64,
}

impl From<&Metadata> for Left {
    fn from(found: &Metadata) -> Self {
        let (device, inode) = (found.dev(), found.ino());
        Self { device, inode, size: found.size(), modified: modified(found) }
    }
}

impl Left {
    /// True if both are one file, whatever is in it.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// An open store.
pub(super) struct Open {
    /// What is in the file.
    pub(super) database: Database,
    file: File,
    sealed: Arc<AtomicBool>,
    left: Left,
}

impl Open {
    fn with(file: File) -> Result<Self, DatabaseError> {
        let sealed = Arc::<AtomicBool>::default();
        let backend = Sealable::new(file.try_clone()?, sealed.clone())?;
        let database = Database::builder().create_with_backend(backend)?;
        let left = Left::from(&file.metadata()?);
        Ok(Self { database, file, sealed, left })
    }

    /// Opens the store at a path, and reads it. A file that cannot be read is left as it is.
    pub(super) fn read(path: &Path) -> Result<(Self, Records)> {
        let (file, bytes) = content(path).map_err(|e| unreadable(path, &e))?;
        let records = rehearse(path, &bytes)?.records;
        Ok((Self::rehearsed(path, file)?, records))
    }

    /// Opens a file whose content was rehearsed.
    pub(super) fn rehearsed(path: &Path, file: File) -> Result<Self> {
        Self::with(file).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => in_use(path.parent().unwrap_or(path)),
            other => unreadable(path, &other),
        })
    }

    /// Makes a file with these records, which takes the place of another one later.
    fn filled(path: &Path, records: &Records, replaces: Option<&Place>) -> Result<Self> {
        let mut new = File::options();
        let file = new.read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let failed = |e: redb::Error| Error::failed(e.to_string());
        let mut open = Self::with(file).map_err(|e| failed(e.into()))?;
        records.write(&open.database, replaces).map_err(failed)?;
        open.file.sync_all()?;
        open.touch()?;
        Ok(open)
    }

    /// Notes how this process has left the file.
    pub(super) fn touch(&mut self) -> io::Result<()> {
        self.left = Left::from(&self.file.metadata()?);
        Ok(())
    }

    /// How this process has left the file.
    pub(super) fn left(&self) -> Left {
        self.left
    }

    /// Leaves the file as it is from now on, also when it is closed.
    pub(super) fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }
}

/// A file, open, and all that is in it.
pub(super) fn content(path: &Path) -> io::Result<(File, Vec<u8>)> {
    // Of what is no file, such as a pipe, the end may never come.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok((file, bytes))
}

/// The folder of a store, which is made if it is not there, locked for one daemon at a time.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let doing = || format!("cannot use state directory {}", dir.display());
    make(dir).doing(doing)?;
    let lock = File::open(dir).doing(doing)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(dir)),
        Err(TryLockError::Error(e)) => return Err(Error::from(e).context(doing())),
    }
    if is_at(&lock, dir).doing(doing)? {
        return Ok(lock);
    }
    Err(Error::failed("another one has just taken its place; try again")).doing(doing)
}

/// True if an open file or folder is what is at a path.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let at = match fs::metadata(path) {
        Ok(found) => Left::from(&found),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(Left::from(&file.metadata()?).is_same_file(&at))
}

/// Makes a folder and those that it is in, so that they are there after a power cut.
fn make(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = match dir.parent() {
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return Err(io::ErrorKind::NotFound.into()),
    };
    make(above)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    failpoint!("store.directory");
    File::open(above)?.sync_all()
}

/// What a store is called until it is complete.
fn begun(path: &Path) -> PathBuf {
    path.with_extension("redb.new")
}

/// Writes a store with these records and puts it in its place, complete or not at all. What is there
/// is kept beside it; returns under which name.
pub(super) fn write(path: &Path, records: &Records, dir: &File) -> Result<(Open, Option<PathBuf>)> {
    let open = begin(path, records)?;
    failpoint!("store.filled");
    let kept = put(&begun(path), path, dir)?;
    Ok((open, kept))
}

/// Writes a store with these records that is to take the place of what is at a path.
pub(super) fn begin(path: &Path, records: &Records) -> Result<Open> {
    let begun = begun(path);
    match fs::remove_file(&begun) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let replaces = Place::at(path)?;
    let open = Open::filled(&begun, records, replaces.as_ref());
    if open.is_err() {
        // It takes room where there is none.
        let _ = fs::remove_file(&begun);
    }
    open
}

/// Puts a complete store in its place.
fn put(begun: &Path, path: &Path, dir: &File) -> Result<Option<PathBuf>> {
    let mut kept = None;
    // Looked at again, so that a third file has no time to come between.
    while let Some(place) = Place::at(path)? {
        match keep(path) {
            // It has gone.
            Err(_) if Place::at(path)?.is_none() => break,
            beside => kept = Some(beside?),
        }
        let beside = kept.as_deref().map(Place::at).transpose()?.flatten();
        if beside.is_some_and(|beside| beside.inode == place.inode) {
            break;
        }
    }
    fs::rename(begun, path)?;
    failpoint!("store.renamed");
    dir.sync_all()?;
    Ok(kept)
}

/// Before the number of a file that was in the place of the store.
fn kept_prefix() -> String {
    format!("{FILE}.kept-")
}

/// The files that were in the place of the store, of earlier daemons too.
pub(super) fn kept_in(dir: &Path) -> Vec<PathBuf> {
    let prefix = kept_prefix();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut kept: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()))
        .map(|entry| entry.path())
        .collect();
    kept.sort();
    kept
}

/// Gives what is at a path another name beside it, one that is free.
fn keep(path: &Path) -> Result<PathBuf> {
    let there = Place::at(path)?.map(|place| place.inode);
    let names = (1_u32..).map(|n| path.with_file_name(format!("{}{n}", kept_prefix())));
    for beside in names {
        if let Some(other) = Place::at(&beside)? {
            if Some(other.inode) == there {
                // A daemon has kept it that was killed then.
                return Ok(beside);
            }
            continue;
        }
        // It has both names until the store is renamed: at no time there is none. A folder has one name
        // only, and so has a file where the file system knows no links.
        match fs::hard_link(path, &beside) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(_) => fs::rename(path, &beside)?,
            Ok(()) => {}
        }
        failpoint!("store.kept");
        return Ok(beside);
    }
    Err(Error::failed("there is no name left to keep what is in its place"))
}

/// Finishes what a daemon had begun that was killed while it wrote the store anew: what was in the place
/// of the store is there still, or there is nothing. Anything else that was begun is removed.
pub(super) fn finish(path: &Path, dir: &File) -> Result<()> {
    let begun = begun(path);
    let bytes = match fs::read(&begun) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // The store is there: what cannot be read is not needed.
        Err(_) if Place::at(path)?.is_some() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let there = Place::at(path)?;
    // Where the file system knows no links it has its other name only.
    let is_kept = |place: Place| {
        let mut kept = kept_in(path.parent().unwrap_or(path)).into_iter();
        kept.any(|kept| Place::at(&kept).is_ok_and(|kept| kept == Some(place)))
    };
    let is_replaced = |replaces: Option<Place>| {
        replaces == there || there.is_none() && replaces.is_some_and(is_kept)
    };
    if rehearse(&begun, &bytes).is_ok_and(|found| is_replaced(found.replaces)) {
        let kept = put(&begun, path, dir)?;
        tracing::error!(
            "the store {} was being written anew when the daemon was killed, which is finished now{}",
            path.display(),
            kept_as(kept.as_deref())
        );
        return Ok(());
    }
    Ok(fs::remove_file(&begun)?)
}

/// Where the file is that was in the place of the store.
pub(super) fn kept_as(kept: Option<&Path>) -> String {
    kept.map_or_else(String::new, |kept| {
        format!("; what was in its place is kept as {}", kept.display())
    })
}

/// What is in a file that was rehearsed.
pub(super) struct Rehearsed {
    /// The records.
    pub(super) records: Records,
    /// The file that it takes the place of.
    replaces: Option<Place>,
}

/// Opens a copy in memory, reads all of it and writes to it, so that whatever the library does to
/// a damaged file (repair, roll back, panic) does not happen to the file itself.
pub(super) fn rehearse(path: &Path, bytes: &[u8]) -> Result<Rehearsed> {
    let read = catch_unwind(AssertUnwindSafe(|| read_all(bytes)))
        .map_err(|_| unreadable(path, &"it is damaged"))?
        .map_err(|e| unreadable(path, &e))?;
    match read {
        Found::Store(rehearsed) => Ok(rehearsed),
        Found::Schema(newer) if newer > SCHEMA => Err(Error::failed(format!(
            "cannot read {}: it has schema {newer} and this maclane knows {SCHEMA}; use the newer maclane that wrote it",
            path.display()
        ))),
        Found::Schema(other) => {
            Err(unreadable(path, &format!("it has schema {other}, which never was")))
        }
        Found::Other => Err(unreadable(path, &"it is not a store of maclane")),
    }
}

/// What bytes turn out to be.
enum Found {
    /// A store of this schema, all of which is readable.
    Store(Rehearsed),
    /// One of another schema.
    Schema(u64),
    /// A database of another program.
    Other,
}

fn read_all(bytes: &[u8]) -> Result<Found, redb::Error> {
    if bytes.is_empty() {
        return Err(redb::Error::Corrupted("it is empty".into()));
    }
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, bytes)?;
    let mut database = Database::builder().create_with_backend(copy)?;
    if !database.check_integrity()? {
        return Err(redb::Error::Corrupted("a checksum is wrong".into()));
    }
    let transaction = database.begin_read()?;
    let schema = match transaction.open_table(META) {
        Ok(meta) => meta.get(META_SCHEMA)?.map(|schema| schema.value()),
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(e) => return Err(e.into()),
    };
    Ok(match schema {
        None => Found::Other,
        Some(SCHEMA) => Found::Store(Rehearsed {
            records: Records::read(&database)?,
            replaces: replaced(&database)?,
        }),
        Some(other) => Found::Schema(other),
    })
}

/// Why a store cannot be used, and the way out.
pub(super) fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::failed(format!(
        "cannot read {}: {cause}; put a backup of it there, or move it away to begin with no parents, networks and children",
        path.display()
    ))
}
