//! The append-only log of one volume: records 1, 2, 3 and so on, without a gap.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::record;

/// Name of the log in a volume's root directory.
pub const FILE_NAME: &str = "records.log";

/// A log that is open for appending.
#[derive(Debug)]
pub struct Log {
    file: File,
    last: u64,
}

impl Log {
    /// Opens or creates the log of a volume. A record that a crash left unfinished was never acknowledged and is cut off.
    ///
    /// # Errors
    /// The file cannot be read or written, or it is damaged before its end.
    pub fn open(volume: &Path) -> Result<Self> {
        let path = volume.join(FILE_NAME);
        let found = Summary::read(volume)?;
        if let Some(damage) = &found.damage {
            bail!("{}: {damage}; start with an empty volume", path.display());
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {} for appending", path.display()))?;
        file.set_len(found.records * record::BYTES as u64).with_context(|| format!("cannot cut {}", path.display()))?;
        file.sync_all().with_context(|| format!("cannot flush {}", path.display()))?;
        // The name of a new file is on disk only when its directory is (fsync(2)).
        File::open(volume).and_then(|directory| directory.sync_all()).context("cannot flush the volume's directory")?;
        Ok(Self { file, last: found.records })
    }

    /// The number of the last record on disk; 0 for an empty log.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Appends the record `number` and returns when it is on disk. The last record may be repeated: it is there already.
    ///
    /// # Errors
    /// The number is not the next one, or the disk refused.
    pub fn append(&mut self, number: u64) -> io::Result<()> {
        if number == self.last && number > 0 {
            return Ok(());
        }
        if number != self.last + 1 {
            let text = format!("record {number} does not follow record {}", self.last);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.file.write_all(&record::encode(number))?;
        self.file.sync_data()?;
        self.last = number;
        Ok(())
    }
}

/// What a volume's log shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Valid records from the start.
    pub records: u64,
    /// The log ends in part of a record. No violation: it was being written when the cut came, and nobody was told that it
    /// was there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
    /// Why the log is not a prefix of what was acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

impl Summary {
    /// Reads the log of a volume; a volume without one has no records. Nothing is written.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(volume: &Path) -> Result<Self> {
        let path = volume.join(FILE_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        scan(BufReader::with_capacity(1 << 16, file)).with_context(|| format!("cannot read {}", path.display()))
    }
}

fn scan(mut log: impl Read) -> io::Result<Summary> {
    let mut records = 0;
    loop {
        let mut next = Vec::with_capacity(record::BYTES);
        log.by_ref().take(record::BYTES as u64).read_to_end(&mut next)?;
        if next.is_empty() {
            return Ok(Summary { records, torn: false, damage: None });
        }
        match record::decode(&next) {
            Some(number) if number == records + 1 => records = number,
            Some(number) => {
                let damage = format!("record {number} stands where record {} belongs", records + 1);
                return Ok(Summary { records, torn: false, damage: Some(damage) });
            }
            None => return ending(records, log),
        }
    }
}

/// After the first invalid record nothing may follow: the store appends one record at a time.
fn ending(records: u64, mut log: impl Read) -> io::Result<Summary> {
    let rest = io::copy(&mut log, &mut io::sink())?;
    let damage = (rest > 0).then(|| format!("record {} is invalid and {rest} bytes follow it", records + 1));
    Ok(Summary { records, torn: true, damage })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
        numbers.into_iter().flat_map(record::encode).collect()
    }

    #[test]
    fn appends_survive_and_only_the_next_number_is_taken() {
        let volume = tempfile::tempdir().unwrap();
        let mut log = Log::open(volume.path()).unwrap();
        assert_eq!(log.last(), 0);
        log.append(1).unwrap();
        log.append(2).unwrap();
        log.append(2).unwrap();
        assert!(log.append(4).unwrap_err().to_string().contains("record 4 does not follow record 2"));
        assert!(log.append(1).is_err());
        assert_eq!(Summary::read(volume.path()).unwrap(), Summary { records: 2, torn: false, damage: None });
        assert_eq!(Log::open(volume.path()).unwrap().last(), 2);
    }

    #[test]
    fn an_unfinished_last_record_is_cut_off() {
        let volume = tempfile::tempdir().unwrap();
        let mut content = bytes(1..=3);
        content.extend_from_slice(&record::encode(4)[..10]);
        std::fs::write(volume.path().join(FILE_NAME), content).unwrap();
        assert_eq!(Summary::read(volume.path()).unwrap(), Summary { records: 3, torn: true, damage: None });
        Log::open(volume.path()).unwrap().append(4).unwrap();
        assert_eq!(Summary::read(volume.path()).unwrap(), Summary { records: 4, torn: false, damage: None });
    }

    #[test]
    fn damage_before_the_end_is_told() {
        let gap = scan(&bytes([1, 2, 4])[..]).unwrap();
        assert_eq!((gap.records, gap.damage.as_deref()), (2, Some("record 4 stands where record 3 belongs")));
        let mut hole = bytes(1..=4);
        hole[64..128].fill(0);
        let hole = scan(&hole[..]).unwrap();
        assert_eq!((hole.records, hole.damage.as_deref()), (1, Some("record 2 is invalid and 128 bytes follow it")));
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join(FILE_NAME), bytes([1, 3])).unwrap();
        assert!(Log::open(volume.path()).is_err(), "a store must not append to a damaged log");
    }

    #[test]
    fn a_volume_without_a_log_has_no_records() {
        assert_eq!(Summary::read(tempfile::tempdir().unwrap().path()).unwrap(), Summary::default());
    }
}
