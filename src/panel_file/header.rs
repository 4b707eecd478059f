//! The header: what it says, and whether it can be believed.

use crate::matrix::check_cols;
use crate::panel_file::error::PanelFileError;
use crate::panels::{depth, panel_bytes};
use crate::scales::{Granularity, GroupSize};
use core::mem::size_of;
use core::ops::Range;

pub(super) const MAGIC: [u8; 8] = *b"TRITPANL";
pub(super) const VERSION: u32 = 1;
/// Bytes of the header; the panels follow, so they are aligned to 64 wherever
/// the file is.
pub(super) const HEADER: usize = 128;
pub(super) const BIAS_FLAG: u32 = 1;
const ROTATION_FLAG: u32 = 2;
const SIGNS_FLAG: u32 = 4;

pub(super) type Header = [u8; HEADER];

/// A little-endian unsigned integer of the header.
struct Field {
    name: &'static str,
    at: usize,
    len: usize,
}

const fn field(name: &'static str, at: usize, len: usize) -> Field {
    Field { name, at, len }
}

const VERSION_FIELD: Field = field("version", 8, 4);
const HEADER_LEN: Field = field("header length", 12, 4);
const ROWS: Field = field("rows", 16, 8);
const COLS: Field = field("cols", 24, 8);
const DEPTH: Field = field("depth", 32, 8);
const GRANULARITY: Field = field("granularity", 40, 4);
const FLAGS: Field = field("flags", 44, 4);
const PANELS_AT: Field = field("panels offset", 48, 8);
const SCALES_AT: Field = field("scales offset", 56, 8);
const SCALES_COUNT: Field = field("scales count", 64, 8);
const BIAS_AT: Field = field("bias offset", 72, 8);
const BIAS_COUNT: Field = field("bias count", 80, 8);
const FILE_LEN: Field = field("file length", 88, 8);
const SECTION_CRCS: [Field; 4] = [
    field("panels checksum", 96, 4),
    field("scales checksum", 100, 4),
    field("bias checksum", 104, 4),
    field("signs checksum", 108, 4),
];
const ROTATED_BLOCK: Field = field("rotated block", 112, 4);
const RESERVED: Field = field("reserved", 116, 8);
const HEADER_CRC: Field = field("header checksum", 124, 4);

/// Fields that follow from the shape, so that they can only be right or wrong.
const DERIVED: [&Field; 9] = [
    &HEADER_LEN,
    &DEPTH,
    &PANELS_AT,
    &SCALES_AT,
    &SCALES_COUNT,
    &BIAS_AT,
    &BIAS_COUNT,
    &FILE_LEN,
    &RESERVED,
];

impl Field {
    fn get(&self, header: &Header) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.len].copy_from_slice(&header[self.at..][..self.len]);
        u64::from_le_bytes(bytes)
    }

    fn get_u32(&self, header: &Header) -> u32 {
        self.get(header) as u32
    }

    fn set(&self, header: &mut Header, value: u64) {
        header[self.at..][..self.len].copy_from_slice(&value.to_le_bytes()[..self.len]);
    }
}

/// What a file holds and where.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) granularity: Option<Granularity>,
    pub(super) has_bias: bool,
    pub(super) rotation: Option<Turn>,
    pub(super) panels: Range<usize>,
    pub(super) scales: Range<usize>,
    pub(super) bias: Range<usize>,
    pub(super) signs: Range<usize>,
}

/// A rotation: the values of a block, and whether there are signs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) block: u32,
    pub(super) has_signs: bool,
}

impl Layout {
    /// The layout of a shape; `None` if the file would not fit the address
    /// space.
    pub(super) fn new(
        [rows, cols]: [usize; 2],
        granularity: Option<Granularity>,
        has_bias: bool,
        rotation: Option<Turn>,
    ) -> Option<Self> {
        let section = |start: usize, len: usize| Some(start..start.checked_add(len)?);
        let floats = |count: usize| count.checked_mul(size_of::<f32>());
        let count = granularity.map_or(Some(0), |g| g.scales(rows, cols))?;
        let panels = section(HEADER, panel_bytes(rows, cols)?)?;
        let scales = section(panels.end, floats(count)?)?;
        let bias = section(scales.end, floats(if has_bias { rows } else { 0 })?)?;
        let has_signs = rotation.is_some_and(|turn| turn.has_signs);
        let signs = section(bias.end, if has_signs { cols.div_ceil(8) } else { 0 })?;
        (signs.end <= isize::MAX as usize).then_some(Self {
            rows,
            cols,
            granularity,
            has_bias,
            rotation,
            panels,
            scales,
            bias,
            signs,
        })
    }

    pub(super) fn file_len(&self) -> usize {
        self.signs.end
    }

    fn flags(&self) -> u32 {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        flag(self.has_bias, BIAS_FLAG)
            | flag(self.rotation.is_some(), ROTATION_FLAG)
            | flag(self.rotation.is_some_and(|turn| turn.has_signs), SIGNS_FLAG)
    }

    /// The header of a file with this layout and these checksums of its
    /// sections.
    pub(super) fn header(&self, crcs: [u32; 4]) -> Header {
        let mut header = [0; HEADER];
        header[..MAGIC.len()].copy_from_slice(&MAGIC);
        let floats = |section: &Range<usize>| (section.len() / size_of::<f32>()) as u64;
        let values = [
            (&VERSION_FIELD, u64::from(VERSION)),
            (&HEADER_LEN, HEADER as u64),
            (&ROWS, self.rows as u64),
            (&COLS, self.cols as u64),
            (&DEPTH, depth(self.cols) as u64),
            (&GRANULARITY, u64::from(granularity_code(self.granularity))),
            (&FLAGS, u64::from(self.flags())),
            (
                &ROTATED_BLOCK,
                self.rotation.map_or(0, |turn| turn.block.into()),
            ),
            (&PANELS_AT, self.panels.start as u64),
            (&SCALES_AT, self.scales.start as u64),
            (&SCALES_COUNT, floats(&self.scales)),
            (&BIAS_AT, self.bias.start as u64),
            (&BIAS_COUNT, floats(&self.bias)),
            (&FILE_LEN, self.file_len() as u64),
        ];
        for (field, value) in values {
            field.set(&mut header, value);
        }
        for (field, crc) in SECTION_CRCS.iter().zip(crcs) {
            field.set(&mut header, u64::from(crc));
        }
        let crc = crc32fast::hash(&header[..HEADER_CRC.at]);
        HEADER_CRC.set(&mut header, u64::from(crc));
        header
    }

    /// Reads a header: the layout and the checksums of the sections. Nothing
    /// of it is used, least of all a length, before everything fits together.
    pub(super) fn parse(header: &Header) -> Result<(Self, [u32; 4]), PanelFileError> {
        check_magic(header)?;
        // Before the checksum: another version may keep it elsewhere.
        let found = VERSION_FIELD.get_u32(header);
        if found != VERSION {
            return Err(PanelFileError::Version {
                found,
                supported: VERSION,
            });
        }
        let (stored, computed) = (
            HEADER_CRC.get_u32(header),
            crc32fast::hash(&header[..HEADER_CRC.at]),
        );
        if stored != computed {
            return Err(PanelFileError::HeaderChecksum { stored, computed });
        }
        let (rows, cols) = (ROWS.get(header), COLS.get(header));
        let too_large = PanelFileError::TooLarge { rows, cols };
        let (Ok(rows), Ok(cols)) = (usize::try_from(rows), usize::try_from(cols)) else {
            return Err(too_large);
        };
        check_cols(cols)?;
        let granularity = granularity(GRANULARITY.get_u32(header))?;
        let flags = FLAGS.get_u32(header);
        let rotation = (flags & ROTATION_FLAG != 0).then_some(Turn {
            block: ROTATED_BLOCK.get_u32(header),
            has_signs: flags & SIGNS_FLAG != 0,
        });
        let has_bias = flags & BIAS_FLAG != 0;
        let Some(layout) = Self::new([rows, cols], granularity, has_bias, rotation) else {
            return Err(too_large);
        };
        let crcs = SECTION_CRCS.map(|field| field.get_u32(header));
        let wanted = layout.header(crcs);
        // Signs without a rotation are a flag too many.
        for field in DERIVED.into_iter().chain([&FLAGS, &ROTATED_BLOCK]) {
            let (found, expected) = (field.get(header), field.get(&wanted));
            if found != expected {
                return Err(PanelFileError::Field {
                    name: field.name,
                    found,
                    expected,
                });
            }
        }
        Ok((layout, crcs))
    }
}

/// The version in a header's start.
pub(super) fn version(start: &[u8; 64]) -> u32 {
    let mut header = [0; HEADER];
    header[..64].copy_from_slice(start);
    VERSION_FIELD.get_u32(&header)
}

/// Whether `start`, the first bytes of something, can be those of a panel file.
pub(super) fn check_magic(start: &[u8]) -> Result<(), PanelFileError> {
    let len = start.len().min(MAGIC.len());
    if start[..len] != MAGIC[..len] {
        return Err(PanelFileError::NotPanelFile);
    }
    Ok(())
}

fn granularity_code(granularity: Option<Granularity>) -> u32 {
    match granularity {
        None => 0,
        Some(Granularity::PerTensor) => 1,
        Some(Granularity::PerRow) => 2,
        Some(Granularity::PerGroup(group)) => group.len() as u32,
    }
}

fn granularity(code: u32) -> Result<Option<Granularity>, PanelFileError> {
    let group = || GroupSize::from_len(code as usize).map(Granularity::PerGroup);
    match code {
        0 => Ok(None),
        1 => Ok(Some(Granularity::PerTensor)),
        2 => Ok(Some(Granularity::PerRow)),
        _ => match group() {
            Some(granularity) => Ok(Some(granularity)),
            None => Err(PanelFileError::Granularity { found: code }),
        },
    }
}
