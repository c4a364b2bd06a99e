//! The disk below the server, in the test's hands: it can be full, fail to sync, lie, and lose at a power cut what was not synced.

use chatify_tests::seeds::Seed;
use chatify_tests::server::{Home, Options};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The files of the database, in the order of the layer's numbers.
const FILES: [&str; 2] = ["chatify.db", "chatify.db-wal"];
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// The size of the control file, and where in it the count of injected faults is.
const CONTROL_BYTES: u64 = 4096;
const INJECTED_AT: u64 = 8;

/// What fails, as the layer (`faults/disk.c`) knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Every write: no room.
    NoRoom = b'F' as isize,
    /// Writes that make a file longer: no room.
    NoRoomToGrow = b'G' as isize,
    /// Every sync, for good.
    Sync = b'S' as isize,
    /// The next sync alone.
    SyncOnce = b's' as isize,
    /// The next sync of the database file itself.
    SyncOfDatabase = b'D' as isize,
    /// Syncs are not done, and nobody is told.
    Lie = b'L' as isize,
    /// Every read.
    Read = b'R' as isize,
}

/// A disk for the servers of one home.
pub(super) struct Disk {
    directory: TempDir,
    control: File,
}

impl Disk {
    /// Builds the layer. Nothing fails yet.
    pub(super) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("chatify-disk-").tempdir().expect("a temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/disk.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&directory.path().join("disk.so"), &source])
            .output()
            .expect("a C compiler: `apt install build-essential`");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let path = directory.path().join("control");
        let control = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let control = control.expect("a control file");
        control.set_len(CONTROL_BYTES).expect("a page");
        Self { directory, control }
    }

    /// Puts the layer below a server.
    pub(super) fn below(&self, options: Options) -> Options {
        let file = |name: &str| self.directory.path().join(name).to_str().expect("text").to_owned();
        options
            .with_variable("LD_PRELOAD", &file("disk.so"))
            .with_variable("CHATIFY_FAULT_CONTROL", &file("control"))
            .with_variable("CHATIFY_FAULT_JOURNAL", &file("journal"))
    }

    /// From now on.
    pub(super) fn fail(&self, fault: Fault) {
        self.control.write_all_at(&[fault as u8], 0).expect("a control file");
    }

    /// Nothing fails any more.
    pub(super) fn heal(&self) {
        self.control.write_all_at(&[0], 0).expect("a control file");
    }

    /// How many calls were made to fail so far.
    pub(super) fn injected(&self) -> u64 {
        let mut count = [0; 8];
        self.control.read_exact_at(&mut count, INJECTED_AT).expect("a control file");
        u64::from_ne_bytes(count)
    }

    /// What the power takes with it, after the server was killed: of the writes that were not synced some are there, some are not, and some in part.
    /// Gives how many are not whole.
    pub(super) fn cut_power(&self, home: &Home, seed: &Seed) -> usize {
        let journal = fs::read(self.directory.path().join("journal")).expect("the layer's journal");
        let changes = Journal::read(&journal);
        let files = FILES.map(|name| Cut::open(home.data_dir().join(name)));
        for change in changes.iter().rev() {
            files[change.file].undo(change);
        }
        let mut missing = 0;
        for change in &changes {
            let kept = if change.durable { Kept::Whole } else { Kept::by_chance(change, seed) };
            missing += usize::from(!matches!(kept, Kept::Whole));
            files[change.file].redo(change, kept);
        }
        missing
    }
}

/// One change of a file, as the journal tells it.
struct Change<'a> {
    kind: u8,
    file: usize,
    sequence: u64,
    offset: u64,
    size_before: u64,
    old: &'a [u8],
    new: &'a [u8],
    durable: bool,
    /// A sync that failed has dropped it; a later one does not bring it back.
    lost: bool,
}

struct Journal<'a>(&'a [u8]);

impl<'a> Journal<'a> {
    /// Everything that is whole: of an entry that is cut off at the end, the change has not happened.
    fn read(bytes: &'a [u8]) -> Vec<Change<'a>> {
        let (mut journal, mut changes) = (Self(bytes), Vec::new());
        while let Some(change) = journal.entry() {
            let covered = |known: &&mut Change<'_>| known.file == change.file && known.sequence <= change.sequence;
            match change.kind {
                b'S' => changes.iter_mut().filter(covered).for_each(|known| known.durable = !known.lost),
                b'L' => changes.iter_mut().filter(covered).for_each(|known| known.lost = !known.durable),
                _ => changes.push(change),
            }
        }
        changes
    }

    fn entry(&mut self) -> Option<Change<'a>> {
        let mut numbers = [0; 7];
        for number in &mut numbers {
            *number = u64::from_ne_bytes(self.take(8)?.try_into().ok()?);
        }
        let [kind, file, sequence, offset, size_before, old, new] = numbers;
        let kind = u8::try_from(kind).expect("a letter");
        let (old, new) = (self.take(old)?, self.take(new)?);
        let file = usize::try_from(file).expect("a small number");
        Some(Change { kind, file, sequence, offset, size_before, old, new, durable: false, lost: false })
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

/// What is left of a change.
#[derive(Clone, Copy)]
enum Kept {
    Whole,
    FirstBytes(usize),
    Nothing,
}

impl Kept {
    fn by_chance(change: &Change<'_>, seed: &Seed) -> Self {
        let sectors = change.new.len().div_ceil(SECTOR);
        match seed.pick(0..4) {
            0 => Self::Whole,
            1 if sectors > 1 => Self::FirstBytes(usize::try_from(seed.pick(1..sectors as u64)).expect("few") * SECTOR),
            _ => Self::Nothing,
        }
    }
}

/// A file after the power cut. One that the server has removed (it does, once the database has all of a write-ahead log) stays away.
struct Cut(Option<File>);

impl Cut {
    fn open(path: PathBuf) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(path).ok())
    }

    fn undo(&self, change: &Change<'_>) {
        if let Some(file) = &self.0 {
            file.write_all_at(change.old, change.offset).expect("a file of the test");
            file.set_len(change.size_before).expect("a file of the test");
        }
    }

    fn redo(&self, change: &Change<'_>, kept: Kept) {
        let Some(file) = &self.0 else { return };
        let bytes = match kept {
            Kept::Whole if change.kind == b'T' => return file.set_len(change.offset).expect("a file of the test"),
            Kept::Whole => change.new,
            Kept::FirstBytes(count) => &change.new[..count],
            Kept::Nothing => return,
        };
        file.write_all_at(bytes, change.offset).expect("a file of the test");
    }
}
