//! Memory at an address of any alignment, with canaries around it.

/// Numbers that are bytes in memory.
pub trait Bytes: Copy + Default {
    /// Appends them.
    fn append(&self, out: &mut Vec<u8>);
    /// What tells values apart, NaNs included.
    fn bits(&self) -> u64;
    /// And back.
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($number:ty)*) => {$(
        impl Bytes for $number {
            fn append(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
            fn bits(&self) -> u64 {
                let mut word = [0; 8];
                word[..size_of::<Self>()].copy_from_slice(&self.to_ne_bytes());
                u64::from_ne_bytes(word)
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_ne_bytes(bytes.try_into().expect("its size"))
            }
        }
    )*};
}
bytes! { i8 u8 u16 i32 f32 }

const CANARY: u8 = 0x5a;
const MARGIN: usize = 64;

/// Values at a chosen distance from an aligned address.
pub struct Memory<T> {
    data: Vec<u8>,
    start: usize,
    len: usize,
    _of: std::marker::PhantomData<T>,
}

impl<T: Bytes> Memory<T> {
    /// A copy of `values`, `at` bytes modulo 16 after an address that is a
    /// multiple of 16.
    pub fn new(values: &[T], at: u8) -> Self {
        let mut inside = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|value| value.append(&mut inside));
        let mut data = vec![CANARY; inside.len() + 2 * MARGIN];
        let aligned = data.as_ptr().align_offset(16);
        let start = aligned + usize::from(at % 16);
        data[start..][..inside.len()].copy_from_slice(&inside);
        Self {
            data,
            start,
            len: values.len(),
            _of: std::marker::PhantomData,
        }
    }

    /// Where it is.
    pub fn ptr(&self) -> *const T {
        self.data[self.start..].as_ptr().cast()
    }

    /// Where it is, to be written.
    pub fn ptr_mut(&mut self) -> *mut T {
        self.data[self.start..].as_mut_ptr().cast()
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values.
    pub fn values(&self) -> Vec<T> {
        let bytes = &self.data[self.start..][..self.len * size_of::<T>()];
        bytes
            .chunks_exact(size_of::<T>())
            .map(T::from_bytes)
            .collect()
    }

    /// The values, after checking that nothing around them was written.
    pub fn take(&mut self) -> Vec<T> {
        let end = self.start + self.len * size_of::<T>();
        let around = self.data[..self.start].iter().chain(&self.data[end..]);
        assert!(around.copied().all(|byte| byte == CANARY), "around it");
        self.values()
    }
}
