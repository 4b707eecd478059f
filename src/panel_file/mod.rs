//! Panel files: packed weights as the kernels read them, with their scales and
//! bias, versioned and checksummed.

mod error;
mod floats;
mod header;
mod model;
mod save;

use crate::linear::Linear;
use crate::matrix::{MatrixError, check_scales};
use crate::memory::{OutOfMemory, lines, resize_lines};
use crate::mismatch::check_length;
use crate::panels::{PanelBytes, Panels};
use crate::product::scales::RowScales;
use crate::rotation::Rotation;
use crate::scales::{Granularity, Scales};
use core::convert::Infallible;
use header::{HEADER, Layout, Turn, check_magic};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

pub use error::PanelFileError;
pub use model::{ModelFile, ModelWriter};

/// Panels with their scales and bias, as a file holds them.
///
/// ```
/// use tritgemm::{Linear, MatRef, PanelFile, Scales, TernaryMatrix, Verify};
/// let trits = MatRef::new(&[1, 0, -1, 1], 2, 2)?;
/// let w = TernaryMatrix::from_trits(trits, Scales::per_tensor(0.5))?;
/// let file = PanelFile::from(&Linear::new(&w)?);
/// let mut bytes = Vec::new();
/// file.write_to(&mut bytes)?;
/// let layer = Linear::try_from(PanelFile::from_bytes(bytes, Verify::Full)?)?;
/// assert_eq!(layer.panels().to_packed(), w.packed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Format
/// A file is read or mapped on any CPU without repacking. All numbers are
/// little-endian; the sections follow each other without gaps.
///
/// | at | bytes | what |
/// |---|---|---|
/// | 0 | 8 | the letters `TRITPANL` |
/// | 8 | 4 | version: 1 |
/// | 12 | 4 | length of the header: 128 |
/// | 16 | 8 | rows (M) |
/// | 24 | 8 | columns (K), at most [`MAX_COLS`](crate::MAX_COLS) |
/// | 32 | 8 | depth: strips of a panel, `ceil(K / 4)` rounded up to a multiple of 3 |
/// | 40 | 4 | what a scale covers: 0 no scales, 1 the tensor, 2 a row, 32, 64, 128 or 256 a group |
/// | 44 | 4 | flags: bit 0, there is a bias; 1, inputs are rotated; 2, with signs |
/// | 48 | 8 | offset of the panels: 128 |
/// | 56 | 8 | offset of the scales |
/// | 64 | 8 | number of scales |
/// | 72 | 8 | offset of the bias |
/// | 80 | 8 | number of bias values: rows or 0 |
/// | 88 | 8 | length of the file |
/// | 96 | 16 | CRC-32 of the panels, of the scales, of the bias and of the signs |
/// | 112 | 4 | values of a rotated block, 0 without a [`Rotation`] |
/// | 116 | 8 | zeros |
/// | 124 | 4 | CRC-32 of the 124 bytes before |
/// | 128 | | panels `[ceil(rows / 64)][depth][64]`: see [`Panels`] |
/// | | | scales, f32: see [`Scales`] |
/// | | | bias, f32 |
/// | | | signs of the rotation, `ceil(K / 8)` bytes: bit `j % 8` of byte `j / 8` turns value `j` |
///
/// The CRC is that of zip and Ethernet; it catches every change of a single
/// byte. Whatever follows from the shape is stored all the same, computed
/// again when read, and a difference is an error.
#[derive(Clone, Debug)]
pub struct PanelFile {
    panels: Panels,
    scales: Option<Scales>,
    bias: Option<Vec<f32>>,
    rotation: Option<Rotation>,
}

/// How much of a panel file is checked against its checksums.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verify {
    /// Everything; reads every byte once.
    #[default]
    Full,
    /// All but the panels: the header, scales and bias. Opening a large mapped
    /// file then takes no time; damaged panels give wrong products, but no
    /// undefined behaviour.
    Header,
}

impl PanelFile {
    /// Panels, with scales and a bias if there are any.
    ///
    /// # Errors
    /// If the numbers of scales or of bias values do not fit the panels, or a
    /// scale is not finite.
    pub fn new(
        panels: Panels,
        scales: Option<Scales>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self, MatrixError> {
        let (rows, cols) = (panels.rows(), panels.cols());
        if let Some(scales) = &scales {
            check_scales(scales, rows, cols)?;
        }
        if let Some(bias) = &bias {
            check_length("bias", bias.len(), rows)?;
        }
        Ok(Self {
            panels,
            scales,
            bias,
            rotation: None,
        })
    }

    /// The file of a matrix whose inputs are rotated.
    ///
    /// # Errors
    /// If K is not whole blocks, or there are more or fewer signs.
    pub fn with_rotation(mut self, rotation: Rotation) -> Result<Self, MatrixError> {
        rotation.check(self.panels.cols())?;
        self.rotation = Some(rotation);
        Ok(self)
    }

    /// How inputs are rotated, if they are.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// The packed weights.
    pub fn panels(&self) -> &Panels {
        &self.panels
    }

    /// The scales, if the file has any.
    pub fn scales(&self) -> Option<&Scales> {
        self.scales.as_ref()
    }

    /// The bias, if the file has one.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Panels, scales, bias and rotation.
    pub fn into_parts(self) -> (Panels, Option<Scales>, Option<Vec<f32>>, Option<Rotation>) {
        (self.panels, self.scales, self.bias, self.rotation)
    }

    /// Writes the file's bytes.
    ///
    /// # Errors
    /// If `out` gives one.
    pub fn write_to(&self, out: impl Write) -> io::Result<()> {
        PanelFileRef::from(self).write_to(out)
    }

    /// Writes the file at `path`, atomically: whoever opens `path` sees the old
    /// file or the whole new one, also after a crash, and what was mapped stays
    /// as it was.
    ///
    /// # Errors
    /// If the file cannot be written; what was at `path` is untouched then and
    /// nothing else is left behind.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PanelFileError> {
        PanelFileRef::from(self).save(path.as_ref())
    }

    /// Reads the file at `path` and checks all of it. The panels are read into
    /// aligned memory.
    ///
    /// # Errors
    /// If the file cannot be read, is no panel file, or is damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PanelFileError> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|e| PanelFileError::io(path, e))?;
        let known = file.metadata().map_err(|e| PanelFileError::io(path, e))?;
        let known = if known.is_file() { known.len() } else { 0 };

        let mut start = Vec::with_capacity(HEADER);
        let mut head = (&mut file).take(HEADER as u64);
        head.read_to_end(&mut start)
            .map_err(|e| PanelFileError::io(path, e))?;
        let (layout, crcs) = parse(&start)?;
        let mut done = HEADER;
        let mut section = |len: usize| -> Result<_, PanelFileError> {
            let mut bytes = lines();
            // A header may lie, so memory follows what the file really has.
            let believed = usize::try_from(known).unwrap_or(usize::MAX);
            let believed = len.min(believed);
            let missing = |_| OutOfMemory { bytes: believed };
            bytes.try_reserve_exact(believed).map_err(missing)?;
            while bytes.len() < len {
                let filled = bytes.len();
                let step = (len - filled).min(filled.clamp(1 << 20, 1 << 26));
                resize_lines(&mut bytes, filled + step)?;
                let mut part = &mut bytes[filled..];
                while !part.is_empty() {
                    let read = match file.read(part) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                        read => read.map_err(|e| PanelFileError::io(path, e))?,
                    };
                    if read == 0 {
                        return Err(PanelFileError::Length {
                            len: done as u64,
                            expected: layout.file_len() as u64,
                        });
                    }
                    done += read;
                    part = &mut part[read..];
                }
            }
            Ok(bytes)
        };
        let panels = section(layout.panels.len())?;
        let scales = section(layout.scales.len())?;
        let bias = section(layout.bias.len())?;
        let signs = section(layout.signs.len())?;
        let mut after = Vec::new();
        let more = file.take(1).read_to_end(&mut after);
        if more.map_err(|e| PanelFileError::io(path, e))? > 0 {
            let expected = layout.file_len() as u64;
            return Err(PanelFileError::Length {
                len: known.max(expected + 1),
                expected,
            });
        }
        check("panels", crcs[0], &panels)?;
        check("scales", crcs[1], &scales)?;
        check("bias", crcs[2], &bias)?;
        check("signs", crcs[3], &signs)?;
        let panels = Panels::from_parts(PanelBytes::owned(panels), 0, layout.rows, layout.cols);
        Self::assemble(&layout, panels, [&scales, &bias, &signs])
    }

    /// A panel file that is in memory already: the panels are used where they
    /// are.
    ///
    /// # Errors
    /// If it is no panel file, or is damaged.
    pub fn from_bytes(
        bytes: impl Into<PanelBytes>,
        verify: Verify,
    ) -> Result<Self, PanelFileError> {
        let bytes = bytes.into();
        let all = bytes.as_slice();
        let (layout, crcs) = parse_whole(all)?;
        let [scales, bias, signs] =
            [&layout.scales, &layout.bias, &layout.signs].map(|range| &all[range.clone()]);
        if verify == Verify::Full {
            check("panels", crcs[0], &all[layout.panels.clone()])?;
        }
        check("scales", crcs[1], scales)?;
        check("bias", crcs[2], bias)?;
        check("signs", crcs[3], signs)?;
        let start = layout.panels.start;
        let panels = Panels::from_parts(bytes.clone(), start, layout.rows, layout.cols);
        Self::assemble(&layout, panels, [scales, bias, signs])
    }

    fn assemble(
        layout: &Layout,
        panels: Panels,
        [scales, bias, signs]: [&[u8]; 3],
    ) -> Result<Self, PanelFileError> {
        let values = floats::read(scales)?;
        let scales = layout.granularity.map(|g| Scales::with(g, values));
        let bias = layout.has_bias.then(|| floats::read(bias));
        let file = Self::new(panels, scales, bias.transpose()?)?;
        let Some(turn) = layout.rotation else {
            return Ok(file);
        };
        let padding = signs.last().map_or(0, |last| match layout.cols % 8 {
            0 => 0,
            used => last >> used,
        });
        if padding != 0 {
            return Err(PanelFileError::Field {
                name: "signs after the last",
                found: padding.into(),
                expected: 0,
            });
        }
        let signs = turn.has_signs.then_some(signs);
        let rotation = Rotation::from_sign_bits(turn.block as usize, signs, layout.cols)?;
        Ok(file.with_rotation(rotation)?)
    }
}

/// What is written of a matrix: the parts of a [`PanelFile`] or of a [`Linear`] where they
/// are, so that writing copies nothing.
#[derive(Clone, Copy, Debug)]
pub struct PanelFileRef<'a> {
    panels: &'a Panels,
    scales: Option<ScalesRef<'a>>,
    bias: Option<&'a [f32]>,
    rotation: Option<&'a Rotation>,
}

/// Scales in either of their orders.
#[derive(Clone, Copy, Debug)]
enum ScalesRef<'a> {
    File(&'a Scales),
    Layer(&'a RowScales),
}

impl ScalesRef<'_> {
    fn granularity(&self) -> Granularity {
        match self {
            Self::File(scales) => scales.granularity(),
            Self::Layer(scales) => scales.granularity(),
        }
    }

    fn checksum(self) -> u32 {
        match self {
            Self::File(scales) => floats::crc(scales.values().iter().copied()),
            Self::Layer(scales) => floats::crc(scales.values()),
        }
    }

    fn write(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::File(scales) => floats::write(scales.values().iter().copied(), out),
            Self::Layer(scales) => floats::write(scales.values(), out),
        }
    }
}

impl<'a> From<&'a PanelFile> for PanelFileRef<'a> {
    fn from(file: &'a PanelFile) -> Self {
        Self {
            panels: &file.panels,
            scales: file.scales().map(ScalesRef::File),
            bias: file.bias(),
            rotation: file.rotation(),
        }
    }
}

impl<'a> From<&'a Linear> for PanelFileRef<'a> {
    fn from(layer: &'a Linear) -> Self {
        Self {
            panels: layer.panels(),
            scales: Some(ScalesRef::Layer(layer.row_scales())),
            bias: layer.bias(),
            rotation: layer.rotation(),
        }
    }
}

impl PanelFileRef<'_> {
    fn write_to(self, mut out: impl Write) -> io::Result<()> {
        let shape = [self.panels.rows(), self.panels.cols()];
        let granularity = self.scales.map(|scales| scales.granularity());
        let turn = self.rotation.map(|rotation| Turn {
            // A K of at most 2^24 - 1 is whole blocks.
            block: rotation.block() as u32,
            has_signs: rotation.signs().is_some(),
        });
        // Everything is in memory already, less the header.
        let layout = Layout::new(shape, granularity, self.bias.is_some(), turn)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let panels = self.panels.as_bytes();
        let bias = || self.bias.unwrap_or(&[]).iter().copied();
        let mut signs = crc32fast::Hasher::new();
        let Ok(()) = self.rotation.map_or(Ok(()), |rotation| {
            rotation.sign_bits(|bytes| {
                signs.update(bytes);
                Ok::<_, Infallible>(())
            })
        });
        let crcs = [
            crc32fast::hash(panels),
            self.scales.map_or(0, ScalesRef::checksum),
            floats::crc(bias()),
            signs.finalize(),
        ];
        out.write_all(&layout.header(crcs))?;
        out.write_all(panels)?;
        if let Some(scales) = self.scales {
            scales.write(&mut out)?;
        }
        floats::write(bias(), &mut out)?;
        if let Some(rotation) = self.rotation {
            rotation.sign_bits(|bytes| out.write_all(bytes))?;
        }
        out.flush()
    }

    fn save(self, path: &Path) -> Result<(), PanelFileError> {
        let io = |e| PanelFileError::io(path, e);
        save::replace(path, |file| self.write_to(file).map_err(io))
    }
}

/// What the header of a panel file says of its matrix.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PanelHeader {
    /// Rows (M).
    pub rows: usize,
    /// Columns (K).
    pub cols: usize,
    /// What a scale covers, if there are scales.
    pub granularity: Option<Granularity>,
    /// There is a bias.
    pub has_bias: bool,
    /// Inputs are rotated.
    pub is_rotated: bool,
    /// Bytes of the panels.
    pub panel_bytes: usize,
    /// Bytes of the scales.
    pub scale_bytes: usize,
}

impl PanelHeader {
    /// That of a whole file.
    fn read(all: &[u8]) -> Result<Self, PanelFileError> {
        let (layout, _) = parse_whole(all)?;
        Ok(Self {
            rows: layout.rows,
            cols: layout.cols,
            granularity: layout.granularity,
            has_bias: layout.has_bias,
            is_rotated: layout.rotation.is_some(),
            panel_bytes: layout.panels.len(),
            scale_bytes: layout.scales.len(),
        })
    }
}

/// The header of a file that is in memory, and is as long as its header says.
fn parse_whole(all: &[u8]) -> Result<(Layout, [u32; 4]), PanelFileError> {
    let (layout, crcs) = parse(&all[..all.len().min(HEADER)])?;
    match all.len() == layout.file_len() {
        true => Ok((layout, crcs)),
        false => Err(PanelFileError::Length {
            len: all.len() as u64,
            expected: layout.file_len() as u64,
        }),
    }
}

/// A header from what there is of it.
fn parse(start: &[u8]) -> Result<(Layout, [u32; 4]), PanelFileError> {
    check_magic(start)?;
    let header = start.try_into().map_err(|_| PanelFileError::Length {
        len: start.len() as u64,
        expected: HEADER as u64,
    })?;
    Layout::parse(header)
}

fn check(section: &'static str, stored: u32, bytes: &[u8]) -> Result<(), PanelFileError> {
    let computed = crc32fast::hash(bytes);
    if computed != stored {
        return Err(PanelFileError::Checksum {
            section,
            stored,
            computed,
        });
    }
    Ok(())
}

impl From<&Linear> for PanelFile {
    /// Shares the panels, copies scales and bias. [`Linear::save`] and
    /// [`ModelFile::save`] need no copies.
    ///
    /// # Panics
    /// If there is no memory for the scales. Without memory for the bias it aborts.
    fn from(layer: &Linear) -> Self {
        Self {
            panels: layer.panels().clone(),
            scales: Some(layer.scales().expect("memory for the scales")),
            bias: layer.bias().map(<[f32]>::to_vec),
            rotation: layer.rotation().cloned(),
        }
    }
}

impl TryFrom<PanelFile> for Linear {
    type Error = PanelFileError;

    /// Fails where the file has no scales.
    fn try_from(file: PanelFile) -> Result<Self, PanelFileError> {
        let scales = file.scales.ok_or(PanelFileError::NoScales)?;
        let layer = Linear::from_parts(file.panels, scales, file.bias)?;
        Ok(match file.rotation {
            Some(rotation) => layer.with_rotation(rotation)?,
            None => layer,
        })
    }
}

impl Linear {
    /// Writes the layer as a panel file: see [`PanelFile::save`].
    ///
    /// # Errors
    /// As there.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PanelFileError> {
        PanelFileRef::from(self).save(path.as_ref())
    }

    /// Reads a layer from a panel file: see [`PanelFile::load`].
    ///
    /// # Errors
    /// If the file cannot be read, is no panel file, is damaged or has no
    /// scales.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, PanelFileError> {
        Self::try_from(PanelFile::load(path)?)
    }
}
