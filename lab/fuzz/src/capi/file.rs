//! Panel files: in memory, on the disk, mapped.

use super::World;
use super::call::{Call, Slip, Slot};
use super::handle::{Kept, Origin, keep, pick};
use super::layer::{keep_linear, keep_panels};
use super::matrix::number;
use super::outcome::worked;
use crate::fill::Fill;
use crate::panel_file::{derive, is_legal, repair};
use arbitrary::Arbitrary;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tritgemm::{Linear, PanelFile, PanelFileError, Verify};
use tritgemm_capi as c;
use tritgemm_capi::Status;

/// Names of files, some of which cannot be.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"\xff\x01%", b"", b"none/a", b"."];

/// Makes or uses a file; the first number says of which layer or file.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Any bytes, mostly with checksums that are right.
    Bytes(Fill, u16, bool, Lend),
    /// A layer's bytes, or one's that is not quite.
    OfLayer(u8, Option<(u16, u8)>, bool, Lend),
    /// A layer to the disk.
    Save(u8, u8, Option<Slip>),
    /// The same past the library.
    Put(u8, u8, Option<(u16, u8)>),
    /// A file from the disk.
    Map(u8, u8, Option<Slip>),
    /// And read.
    Load(u8, Option<Slip>),
    /// What a file is.
    Info(u8, Option<Slip>),
    /// A file's panels.
    Panels(u8, Option<Slip>),
    /// A file's layer.
    Linear(u8, Option<Slip>),
}

/// How bytes are lent.
#[derive(Arbitrary, Debug)]
pub struct Lend {
    verify: u8,
    at: u8,
    slip: Option<Slip>,
}

/// A directory in memory, made when it is first used.
#[derive(Default)]
pub struct Disk {
    dir: Option<PathBuf>,
}

impl Disk {
    fn path(&mut self, name: u8) -> PathBuf {
        let dir = self.dir.get_or_insert_with(|| {
            let memory = PathBuf::from("/dev/shm");
            let base = if memory.is_dir() {
                memory
            } else {
                std::env::temp_dir()
            };
            let dir = base.join(format!("tritgemm-fuzz-capi-{}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a directory");
            dir
        });
        let name = NAMES[usize::from(name) % NAMES.len()];
        if name.is_empty() {
            return PathBuf::new();
        }
        dir.join(std::ffi::OsStr::from_bytes(name))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // What is mapped stays.
            std::fs::remove_dir_all(dir).expect("removed");
        }
    }
}

fn verify(which: u8, call: &mut Call) -> (i32, Verify) {
    match which % 8 {
        0 | 1 | 2 => (0, Verify::Full),
        3 | 4 | 5 => (1, Verify::Header),
        which => {
            let number = if which == 6 { 2 } else { -1 };
            let text = format!("verify {number}, expected a tritgemm_verify");
            call.wrong(Status::TritgemmInvalidArgument, text);
            (number, Verify::Full)
        }
    }
}

fn bytes_of(file: &PanelFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.write_to(&mut bytes).expect("to memory");
    bytes
}

fn change(bytes: &mut [u8], change: Option<(u16, u8)>) {
    if let Some((at, value)) = change.filter(|_| !bytes.is_empty()) {
        bytes[usize::from(at) % bytes.len()] ^= value;
    }
}

impl Step {
    /// Does it.
    pub fn run(&self, world: &mut World) {
        match self {
            Step::Bytes(fill, len, right, lend) => {
                let mut bytes = fill.bytes(usize::from(len % 2048));
                match right {
                    true => derive(&mut bytes),
                    false => repair(&mut bytes),
                }
                from_memory(world, bytes, lend);
            }
            Step::OfLayer(which, changed, right, lend) => {
                let Some(kept) = pick(&world.linears, *which) else {
                    return;
                };
                let mut bytes = bytes_of(&PanelFile::from(&kept.model));
                change(&mut bytes, *changed);
                if *right {
                    repair(&mut bytes);
                }
                from_memory(world, bytes, lend);
            }
            Step::Save(which, name, slip) => save(world, *which, *name, *slip),
            Step::Put(which, name, changed) => put(world, *which, *name, *changed),
            Step::Map(name, how, slip) => map(world, *name, *how, *slip),
            Step::Load(name, slip) => load(world, *name, *slip),
            Step::Info(which, slip) => info(world, *which, *slip),
            Step::Panels(which, slip) => panels(world, *which, *slip),
            Step::Linear(which, slip) => linear(world, *which, *slip),
        }
    }
}

fn from_memory(world: &mut World, bytes: Vec<u8>, lend: &Lend) {
    let (mut call, mut slot) = (Call::new(lend.slip), Slot::new());
    let bytes = call.buffer("bytes", bytes, lend.at);
    let (number, verify) = verify(lend.verify, &mut call);
    let out = call.slot(&mut slot);
    // SAFETY: a buffer that is kept for as long as the handle, an out pointer.
    let status =
        unsafe { c::tritgemm_panel_file_from_memory(bytes.ptr(), bytes.len(), number, out) };
    let model = call.check(status, || {
        PanelFile::from_bytes(bytes.before().to_vec(), verify)
    });
    let lent = Some(Rc::new(bytes.into_memory()));
    keep_file(world, slot, model, lent);
}

/// A path as an argument.
fn path(path: &Path, call: &mut Call) -> (CString, bool) {
    let text = CString::new(path.as_os_str().as_bytes()).expect("no zero");
    // Where it goes, if it is NULL.
    let mut place = 0;
    (text, call.out("path", &mut place).is_null())
}

fn pointer((text, null): &(CString, bool)) -> *const std::ffi::c_char {
    if *null {
        std::ptr::null()
    } else {
        text.as_ptr()
    }
}

fn save(world: &mut World, which: u8, name: u8, slip: Option<Slip>) {
    let mut call = Call::new(slip);
    let kept = pick(&world.linears, which);
    let handle = call.handle("linear", kept.map(Kept::handle));
    let file = world.disk.path(name);
    let path = path(&file, &mut call);
    // SAFETY: a handle that lives, or none; a string.
    let status = unsafe { c::tritgemm_linear_save(handle, pointer(&path)) };
    let right = call.is_right();
    if right && status == Status::TritgemmOk {
        worked(status);
        let model = &kept.expect("a layer").model;
        let got = std::fs::read(&file).expect("a file");
        assert!(got == bytes_of(&PanelFile::from(model)));
        return;
    }
    call.check(status, || kept.expect("a layer").model.save(&file));
}

fn put(world: &mut World, which: u8, name: u8, changed: Option<(u16, u8)>) {
    let Some(kept) = pick(&world.linears, which) else {
        return;
    };
    let mut bytes = bytes_of(&PanelFile::from(&kept.model));
    change(&mut bytes, changed);
    let path = world.disk.path(name);
    // Another file: the old one may be mapped.
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::write(&path, bytes);
}

fn map(world: &mut World, name: u8, how: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let file = world.disk.path(name);
    let path = path(&file, &mut call);
    let (number, verify) = verify(how, &mut call);
    let out = call.slot(&mut slot);
    // SAFETY: a string, an out pointer; files are replaced and never changed.
    let status = unsafe { c::tritgemm_panel_file_map(pointer(&path), number, out) };
    // SAFETY: as above.
    let model = call.check(status, || unsafe { PanelFile::map(&file, verify) });
    keep_file(world, slot, model, None);
}

fn load(world: &mut World, name: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let file = world.disk.path(name);
    let path = path(&file, &mut call);
    let out = call.slot(&mut slot);
    // SAFETY: a string, an out pointer.
    let status = unsafe { c::tritgemm_panel_file_load(pointer(&path), out) };
    let model = call.check(status, || PanelFile::load(&file));
    keep_file(world, slot, model, None);
}

fn keep_file(
    world: &mut World,
    slot: Slot<c::PanelFile>,
    model: Option<PanelFile>,
    lent: Option<Rc<crate::memory::Memory<u8>>>,
) {
    let Some(model) = model else {
        return slot.unmade();
    };
    let legal = is_legal(model.panels());
    let origin = Origin { lent, legal };
    let made = Kept::new(slot.made(), c::tritgemm_panel_file_destroy, model, &origin);
    keep(&mut world.files, made);
    let last = world.files.len() - 1;
    info(world, last as u8, None);
}

fn info(world: &mut World, which: u8, slip: Option<Slip>) {
    let mut call = Call::new(slip);
    let kept = pick(&world.files, which);
    let handle = call.handle("file", kept.map(Kept::handle));
    let (mut rows, mut cols, mut kind, mut bias) = (0, 0, 0, false);
    let rows_out = call.out("rows", &mut rows);
    let cols_out = call.out("cols", &mut cols);
    let kind_out = call.out("granularity", &mut kind);
    let bias_out = call.out("has_bias", &mut bias);
    // SAFETY: a handle that lives, or none; out pointers.
    let status =
        unsafe { c::tritgemm_panel_file_info(handle, rows_out, cols_out, kind_out, bias_out) };
    let model = call.check(status, || {
        Ok::<_, PanelFileError>(&kept.expect("a file").model)
    });
    if let Some(model) = model {
        let panels = model.panels();
        assert_eq!([rows, cols], [panels.rows(), panels.cols()]);
        let scales = model.scales();
        let want = scales.map_or(0, |scales| self::number(scales.granularity()));
        assert_eq!((kind, bias), (want, model.bias().is_some()));
    }
}

fn panels(world: &mut World, which: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.files, which);
    let handle = call.handle("file", kept.map(Kept::handle));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_panel_file_panels(handle, out) };
    let model = call.check(status, || {
        Ok::<_, PanelFileError>(kept.expect("a file").model.panels().clone())
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_panels(world, slot, model, &origin);
}

fn linear(world: &mut World, which: u8, slip: Option<Slip>) {
    let (mut call, mut slot) = (Call::new(slip), Slot::new());
    let kept = pick(&world.files, which);
    let handle = call.handle("file", kept.map(Kept::handle));
    let out = call.slot(&mut slot);
    // SAFETY: a handle that lives, or none; an out pointer.
    let status = unsafe { c::tritgemm_panel_file_linear(handle, out) };
    let model = call.check(status, || {
        Linear::try_from(kept.expect("a file").model.clone())
    });
    let origin = kept.map(|kept| kept.origin.clone()).unwrap_or_default();
    keep_linear(world, slot, model, &origin);
}
