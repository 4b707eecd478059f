//! Panel files of a whole model: many matrices by their names.

use crate::linear::Linear;
use crate::memory::{self, Lines, OutOfMemory, lines, resize_lines};
use crate::panel_file::error::PanelFileError;
use crate::panel_file::header::{HEADER, MAGIC, check_magic, version};
use crate::panel_file::{PanelFile, PanelFileRef, PanelHeader, Verify, save};
use crate::panels::PanelBytes;
use core::ops::Range;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The version of files of many matrices.
pub(super) const VERSION: u32 = 2;
/// Bytes of the header of such a file, and what matrices start at a multiple of.
const START: usize = 64;
/// Bytes of an entry of the index, less its name.
const ENTRY: usize = 4 + 8 + 8;

/// The matrices of a model, each with its scales and bias, in one panel file.
///
/// ```
/// use std::io::Cursor;
/// use tritgemm::{Linear, MatRef, ModelFile, ModelWriter, Scales, TernaryMatrix, Verify};
/// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
/// let layer = Linear::new(&TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5))?)?;
/// let mut writer = ModelWriter::new(Cursor::new(Vec::new()))?;
/// writer.add("blk.0.ffn_up", &layer)?;
/// writer.add("blk.0.ffn_down", &layer)?;
/// let bytes = writer.finish()?.into_inner();
/// let model = ModelFile::from_bytes(bytes, Verify::Full)?;
/// assert_eq!(model.names().collect::<Vec<_>>(), ["blk.0.ffn_up", "blk.0.ffn_down"]);
/// assert_eq!(model.linear("blk.0.ffn_up")?.scales(), layer.scales());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Format
/// Version 2 of the [format of a single matrix](PanelFile#format), of which a file is read as
/// a model of one matrix without a name. All numbers are little-endian.
///
/// | at | bytes | what |
/// |---|---|---|
/// | 0 | 8 | the letters `TRITPANL` |
/// | 8 | 4 | version: 2 |
/// | 12 | 4 | length of the header: 64 |
/// | 16 | 8 | number of matrices |
/// | 24 | 8 | offset of the index |
/// | 32 | 8 | length of the index |
/// | 40 | 8 | length of the file |
/// | 48 | 4 | CRC-32 of the index |
/// | 52 | 8 | zeros |
/// | 60 | 4 | CRC-32 of the 60 bytes before |
/// | 64 | | matrices, each a whole file of version 1, from a multiple of 64 on |
/// | | | the index, up to the end |
///
/// The index has, for each matrix, the length of its name (4 bytes), the name in UTF-8, the
/// offset and the length of its file (8 bytes each).
#[derive(Clone, Debug)]
pub struct ModelFile {
    bytes: PanelBytes,
    verify: Verify,
    matrices: Vec<(String, Range<usize>)>,
}

impl ModelFile {
    /// A file that is in memory already: panels are used where they are. `verify` says what
    /// is checked of each matrix when it is taken; the index is checked now.
    ///
    /// # Errors
    /// If it is no panel file, or its header or index is damaged.
    pub fn from_bytes(
        bytes: impl Into<PanelBytes>,
        verify: Verify,
    ) -> Result<Self, PanelFileError> {
        let bytes = bytes.into();
        let matrices = matrices(bytes.as_slice())?;
        Ok(Self {
            bytes,
            verify,
            matrices,
        })
    }

    /// Reads the file at `path` into memory; each matrix is checked when it is taken.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), or if the file cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PanelFileError> {
        Self::from_bytes(PanelBytes::owned(read(path.as_ref())?), Verify::Full)
    }

    /// Writes a file of matrices (each a `&PanelFile` or a `&Linear`) and their names at
    /// `path`, atomically: see [`PanelFile::save`].
    ///
    /// # Errors
    /// If two have one name, the file cannot be written, or memory for the index runs out;
    /// what was at `path` is untouched then.
    pub fn save<'a, M: Into<PanelFileRef<'a>>>(
        path: impl AsRef<Path>,
        matrices: impl IntoIterator<Item = (&'a str, M)>,
    ) -> Result<(), PanelFileError> {
        let path = path.as_ref();
        let io = |e| PanelFileError::io(path, e);
        save::replace(path, |file| {
            let mut writer = ModelWriter::new(file).map_err(io)?;
            for (name, matrix) in matrices {
                writer.add(name, matrix).map_err(|e| match e {
                    PanelFileError::Write { source, .. } => io(source),
                    e => e,
                })?;
            }
            writer.finish().map(drop).map_err(io)
        })
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.matrices.iter().map(|(name, _)| name.as_str())
    }

    /// A matrix with its scales and bias.
    ///
    /// # Errors
    /// If there is none of that name, or it is damaged.
    pub fn get(&self, name: &str) -> Result<PanelFile, PanelFileError> {
        let range = self.range(name)?;
        PanelFile::from_bytes(self.bytes.part(range), self.verify)
    }

    /// What a matrix is, by its header alone: neither panels nor scales are read.
    ///
    /// # Errors
    /// If there is none of that name, or its header is damaged.
    pub fn header(&self, name: &str) -> Result<PanelHeader, PanelFileError> {
        PanelHeader::read(&self.bytes.as_slice()[self.range(name)?])
    }

    /// Where the file of a matrix is.
    fn range(&self, name: &str) -> Result<Range<usize>, PanelFileError> {
        let found = self.matrices.iter().find(|(its, _)| its == name);
        let range = found.map(|(_, range)| range.clone());
        range.ok_or_else(|| PanelFileError::NoMatrix { name: name.into() })
    }

    /// A matrix as a layer. Of a mapped file, of which [`Verify::Header`] is checked, a
    /// shard ([`Linear::slice_rows`]) reads the panels of its own rows alone.
    ///
    /// # Errors
    /// As [`get`](Self::get), or if the matrix has no scales.
    pub fn linear(&self, name: &str) -> Result<Linear, PanelFileError> {
        Linear::try_from(self.get(name)?)
    }
}

/// Writes a [`ModelFile`], matrix after matrix.
#[derive(Debug)]
pub struct ModelWriter<W> {
    out: W,
    /// Where the file starts in `out`, and bytes of it so far.
    start: u64,
    len: u64,
    names: HashSet<String>,
    index: Vec<u8>,
    /// A matrix is written in part: there is no whole file to come.
    broken: bool,
}

impl<W: Write + Seek> ModelWriter<W> {
    /// A file that starts where `out` is.
    ///
    /// # Errors
    /// If `out` gives one.
    pub fn new(mut out: W) -> io::Result<Self> {
        let start = out.stream_position()?;
        // Without the letters nobody takes it for a whole file before it is one.
        out.write_all(&[0; START])?;
        Ok(Self {
            out,
            start,
            len: START as u64,
            names: HashSet::new(),
            index: Vec::new(),
            broken: false,
        })
    }

    /// Adds a matrix: a `&PanelFile` or a `&Linear`.
    ///
    /// # Errors
    /// If there is one of that name already, memory for the index runs out, or `out` gives an
    /// error, after which there is no finishing the file.
    pub fn add<'a>(
        &mut self,
        name: &str,
        matrix: impl Into<PanelFileRef<'a>>,
    ) -> Result<(), PanelFileError> {
        let io = |source| PanelFileError::Write {
            name: name.into(),
            source,
        };
        if self.names.contains(name) {
            return Err(PanelFileError::NameTwice { name: name.into() });
        }
        let too_long = |_| io(io::ErrorKind::InvalidInput.into());
        let name_len = u32::try_from(name.len()).map_err(too_long)?;
        self.whole().map_err(io)?;
        // All the memory there will be need of, before anything is written.
        let bytes = self.index.len() + ENTRY + name.len();
        let reserved = self.index.try_reserve(ENTRY + name.len());
        reserved.map_err(|_| OutOfMemory { bytes })?;
        memory::insert(&mut self.names, memory::text(name)?)?;
        self.broken = true;
        self.write(name, name_len, matrix.into()).map_err(io)?;
        self.broken = false;
        Ok(())
    }

    fn whole(&self) -> io::Result<()> {
        match self.broken {
            true => Err(io::Error::other("a matrix was not written to its end")),
            false => Ok(()),
        }
    }

    fn write(&mut self, name: &str, name_len: u32, matrix: PanelFileRef<'_>) -> io::Result<()> {
        let offset = self.len.next_multiple_of(START as u64);
        let padding = [0; START];
        self.out
            .write_all(&padding[..(offset - self.len) as usize])?;
        matrix.write_to(&mut self.out)?;
        self.len = self.out.stream_position()? - self.start;
        self.index.extend(name_len.to_le_bytes());
        self.index.extend(name.as_bytes());
        self.index.extend(offset.to_le_bytes());
        self.index.extend((self.len - offset).to_le_bytes());
        Ok(())
    }

    /// Writes the index and the header, and gives `out` back, at the end of the file.
    ///
    /// # Errors
    /// If `out` gives one, or gave one before.
    pub fn finish(mut self) -> io::Result<W> {
        self.whole()?;
        self.out.write_all(&self.index)?;
        let len = self.index.len() as u64;
        let header = header(
            [self.names.len() as u64, self.len, len],
            crc32fast::hash(&self.index),
        );
        self.out.seek(SeekFrom::Start(self.start))?;
        self.out.write_all(&header)?;
        self.out
            .seek(SeekFrom::Start(self.start + self.len + len))?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The header of a file whose index of `count` matrices is at `at`.
fn header([count, at, len]: [u64; 3], crc: u32) -> [u8; START] {
    let mut header = [0; START];
    let mut put = |at: usize, bytes: &[u8]| header[at..][..bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(8, &VERSION.to_le_bytes());
    put(12, &(START as u32).to_le_bytes());
    for (i, value) in [count, at, len, at.saturating_add(len)]
        .into_iter()
        .enumerate()
    {
        put(16 + 8 * i, &value.to_le_bytes());
    }
    put(48, &crc.to_le_bytes());
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The names and places of the matrices of a file.
fn matrices(all: &[u8]) -> Result<Vec<(String, Range<usize>)>, PanelFileError> {
    check_magic(all)?;
    let start: &[u8; START] = all.first_chunk().ok_or(PanelFileError::Length {
        len: all.len() as u64,
        expected: START as u64,
    })?;
    match version(start) {
        1 => return Ok(vec![(String::new(), 0..all.len())]),
        VERSION => {}
        found => {
            return Err(PanelFileError::Version {
                found,
                supported: VERSION,
            });
        }
    }
    let (stored, computed) = (u32_at(start, 60), crc32fast::hash(&start[..60]));
    if stored != computed {
        return Err(PanelFileError::HeaderChecksum { stored, computed });
    }
    let [count, at, len, file_len] = [16, 24, 32, 40].map(|at| u64_at(start, at));
    let crc = u32_at(start, 48);
    // Whatever else the header says follows from these.
    let wanted = header([count, at, len], crc);
    if let Some(at) = (0..START).find(|&i| start[i] != wanted[i]) {
        return Err(PanelFileError::Field {
            name: "header byte",
            found: start[at].into(),
            expected: wanted[at].into(),
        });
    }
    if file_len != all.len() as u64 {
        return Err(PanelFileError::Length {
            len: all.len() as u64,
            expected: file_len,
        });
    }
    // Both fit: they add up to the length of what is in memory.
    let (at, len) = (at as usize, len as usize);
    let index = &all[at..][..len];
    let computed = crc32fast::hash(index);
    if crc != computed {
        return Err(PanelFileError::Checksum {
            section: "index",
            stored: crc,
            computed,
        });
    }
    entries(index, count, &all[..at])
}

/// The entries of an index, and that the matrices follow each other in what is before it.
fn entries(
    mut index: &[u8],
    count: u64,
    before: &[u8],
) -> Result<Vec<(String, Range<usize>)>, PanelFileError> {
    let mut all: Vec<(String, Range<usize>)> = Vec::new();
    let mut names = HashSet::new();
    let mut end = START;
    while !index.is_empty() {
        let wrong = |what| PanelFileError::Entry {
            index: all.len(),
            what,
        };
        let mut take = |len: usize| {
            let part = index.get(..len).ok_or(wrong("it is cut"))?;
            index = &index[len..];
            Ok::<_, PanelFileError>(part)
        };
        let len = u32_at(take(4)?, 0) as usize;
        let name = core::str::from_utf8(take(len)?).map_err(|_| wrong("its name is not UTF-8"))?;
        let place = take(16)?;
        let [offset, len] = [0, 8].map(|at| u64_at(place, at));
        let start = end.next_multiple_of(START);
        if offset != start as u64 {
            return Err(wrong("its matrix is not at the next multiple of 64"));
        }
        let range = usize::try_from(len)
            .ok()
            .and_then(|len| Some(start..start.checked_add(len)?));
        let range = range
            .filter(|range| range.len() >= HEADER && range.end <= before.len())
            .ok_or(wrong("its matrix is not whole before the index"))?;
        if before[end..start].iter().any(|&byte| byte != 0) {
            return Err(wrong("what lies before its matrix is not zeros"));
        }
        end = range.end;
        if !memory::insert(&mut names, name)? {
            return Err(wrong("another has its name"));
        }
        memory::extend(&mut all, core::iter::once((memory::text(name)?, range)))?;
    }
    if end != before.len() {
        return Err(PanelFileError::Field {
            name: "offset of the index",
            found: before.len() as u64,
            expected: end as u64,
        });
    }
    if all.len() as u64 != count {
        return Err(PanelFileError::Field {
            name: "number of matrices",
            found: count,
            expected: all.len() as u64,
        });
    }
    Ok(all)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..][..4]);
    u32::from_le_bytes(four)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..][..8]);
    u64::from_le_bytes(eight)
}

/// A file, in aligned memory.
fn read(path: &Path) -> Result<Lines, PanelFileError> {
    let io = |e| PanelFileError::io(path, e);
    let mut file = File::open(path).map_err(io)?;
    let known = file.metadata().map_err(io)?.len();
    let (mut bytes, mut len) = (lines(), 0);
    // One byte more than there should be, to see the end.
    let mut room = usize::try_from(known)
        .unwrap_or(usize::MAX)
        .saturating_add(1)
        .max(HEADER);
    loop {
        if len == bytes.len() {
            let more = len
                .checked_add(room)
                .ok_or(OutOfMemory { bytes: usize::MAX })?;
            resize_lines(&mut bytes, more)?;
            room = 1 << 20;
        }
        match file.read(&mut bytes[len..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) => break,
            read => len += read.map_err(io)?,
        }
    }
    resize_lines(&mut bytes, len)?;
    Ok(bytes)
}
