//! Where the functions of ggml are in this process.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use libc::{RTLD_DEFAULT, RTLD_LAZY, RTLD_NOLOAD, dl_phdr_info, dlopen, dlsym};
use std::ffi::CString;
use std::path::Path;

/// The libraries whose functions are looked through: whatever the process has in its global
/// scope, and libraries named `libggml*`, which Python and node.js load for themselves alone.
pub struct Libraries(Vec<*mut c_void>);

impl Libraries {
    pub fn loaded() -> Self {
        let mut paths: Vec<CString> = Vec::new();
        // SAFETY: `collect` takes the list that it is handed back, and the call is over before
        // the list is used again.
        unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut paths).cast()) };
        // SAFETY: a path that ends in zero. The library is loaded, so none of its code runs.
        // The handles are kept, as are the functions that are found through them.
        let open = |path: &CString| unsafe { dlopen(path.as_ptr(), RTLD_LAZY | RTLD_NOLOAD) };
        let handles = paths.iter().map(open).filter(|handle| !handle.is_null());
        Self([RTLD_DEFAULT].into_iter().chain(handles).collect())
    }

    /// The address of a name, or null where there is none. Two of them are none: nobody knows
    /// whose backends the plug-in is to be one of.
    pub fn find(&self, name: &CStr) -> *mut c_void {
        let mut found: *mut c_void = null_mut();
        for &handle in &self.0 {
            // SAFETY: a handle of `dlopen`'s or the global scope's, and a string.
            let here = unsafe { dlsym(handle, name.as_ptr()) };
            if !here.is_null() && !found.is_null() && found != here {
                return null_mut();
            }
            if !here.is_null() {
                found = here;
            }
        }
        found
    }
}

unsafe extern "C" fn collect(info: *mut dl_phdr_info, _: usize, paths: *mut c_void) -> c_int {
    // SAFETY: what `Libraries::loaded` passed, and an entry of a library with its path.
    let (paths, path) = unsafe {
        let paths = &mut *paths.cast::<Vec<CString>>();
        (paths, CStr::from_ptr((*info).dlpi_name))
    };
    let name = Path::new(path.to_str().unwrap_or_default()).file_name();
    if name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"libggml")) {
        paths.push(path.to_owned());
    }
    0
}

/// Gives memory back that file mappings take up, where it comes back from the file when
/// somebody reads it.
pub struct Mappings(Vec<core::ops::Range<usize>>);

impl Mappings {
    /// The shared mappings of this process. Pages of others may be the only copy of what is
    /// in them.
    pub fn shared() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self(maps.lines().filter_map(shared).collect())
    }

    /// Gives back the pages that lie in `bytes` as a whole, if one mapping has all of them.
    pub fn release(&self, bytes: &[u8]) {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = bytes.as_ptr_range();
        let (start, end) = (bytes.start as usize, bytes.end as usize);
        if self.0.iter().any(|it| it.start <= start && end <= it.end) {
            let (start, end) = (start.next_multiple_of(page), end / page * page);
            if start < end {
                // SAFETY: whole pages of a shared mapping: who reads one finds what was there.
                // A refusal costs memory alone.
                unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
            }
        }
    }
}

/// The range of a line of /proc/self/maps, such as `7f00-7f80 r--s 00000000 08:01 12 /m.gguf`,
/// if the mapping is shared.
fn shared(line: &str) -> Option<core::ops::Range<usize>> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    let range = address(start)?..address(end)?;
    words.next()?.ends_with('s').then_some(range)
}

#[cfg(test)]
mod tests {
    use super::{Libraries, Mappings, shared};
    use std::io::Write;

    #[test]
    fn a_name_is_found_where_it_is_once() {
        let libraries = Libraries::loaded();
        assert!(!libraries.find(c"malloc").is_null());
        assert!(libraries.find(c"ggml_backend_register").is_null());
    }

    #[test]
    fn shared_mappings_are_told_from_private_ones() {
        let line = "7f12a000-7f12c000 r--s 00000000 08:01 12 /a model.gguf";
        assert_eq!(shared(line), Some(0x7f12_a000..0x7f12_c000));
        assert_eq!(shared("7f12a000-7f12c000 r--p 00000000 08:01 12 /m"), None);
        assert_eq!(shared("7f12a000-7f12c000 rw-p 00000000 00:00 0"), None);
        assert_eq!(shared(""), None);
    }

    /// Bytes of memory that a file mapping of this process takes up, of its name.
    fn resident(name: &str) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let of_file = maps.lines().skip_while(|line| !line.ends_with(name));
        let mut rss = of_file.filter_map(|line| line.strip_prefix("Rss:"));
        let kib = rss.next().unwrap().trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn pages_of_a_file_are_given_back_and_come_again() {
        let len = 64 * 4096;
        let path = std::env::temp_dir().join(format!("tritgemm-ggml-{}", std::process::id()));
        let mut file = std::fs::File::create(&path).unwrap();
        let written: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        file.write_all(&written).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        use std::os::fd::AsRawFd;
        for (flags, given_back) in [(libc::MAP_SHARED, true), (libc::MAP_PRIVATE, false)] {
            // SAFETY: a mapping of a file that nobody else has.
            let at = unsafe {
                let (fd, read) = (file.as_raw_fd(), libc::PROT_READ);
                libc::mmap(core::ptr::null_mut(), len, read, flags, fd, 0)
            };
            assert_ne!(at, libc::MAP_FAILED);
            // SAFETY: mapped above and unmapped below.
            let bytes = unsafe { core::slice::from_raw_parts(at.cast::<u8>(), len) };
            assert_eq!(bytes, written);
            let name = path.to_str().unwrap();
            assert_eq!(resident(name), len);
            Mappings::shared().release(&bytes[100..len - 100]);
            // Both ends stay.
            let expected = if given_back { 2 * 4096 } else { len };
            // The kernel may map neighbours of what is read: none is read here.
            assert_eq!(resident(name), expected);
            assert_eq!(bytes, written);
            // SAFETY: the mapping above, which nothing uses any more.
            unsafe { libc::munmap(at, len) };
        }
        std::fs::remove_file(&path).unwrap();
    }
}
