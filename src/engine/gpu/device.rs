//! One graphics card as the kernels see it: memory in words, grids within limits, errors in place of panics.
//!
//! Every allocation, every transfer and the size of every launch passes through this file, for two
//! reasons. CubeCL panics where a limit is exceeded, and a client that has panicked stays unusable, so
//! that limits are checked before anything is asked for. And what the runtime calls a handle, an argument
//! or a grid stays here, so that a change of runtime is a change of one file.
//!
//! This is also the only place with `unsafe`: the runtime takes the length of an array on trust.

use crate::engine::EngineError;
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Four words: what one load of 16 bytes brings.
pub(super) type Four = Const<4>;

/// Units of a workgroup that works element by element.
pub(super) const UNITS: u32 = 256;

/// No array is larger: all indices of its elements fit 32 bits, with room for sums of them.
const MAX_BYTES: u64 = 1 << 31;

/// Words (f32 or u32) on the device. Cloning shares them.
///
/// The memory behind them is a whole number of 16 bytes; what lies after the last word is unspecified.
#[derive(Clone)]
pub(super) struct Words {
    handle: Arc<Handle>,
    n_words: usize,
}

impl Words {
    /// Devices bind parts of an array only at such addresses.
    pub(super) const PART_BYTES: usize = 256;

    /// Number of words.
    pub(super) fn len(&self) -> usize {
        self.n_words
    }

    /// Some of these words, which lie at a multiple of [`Self::PART_BYTES`].
    ///
    /// # Panics
    /// When they are not there, or lie elsewhere.
    pub(super) fn part(&self, first: usize, n_words: usize) -> Self {
        let end = first
            .checked_add(n_words)
            .filter(|&end| end <= self.n_words);
        assert!(end.is_some(), "a part lies in the whole");
        assert!(
            (first * 4).is_multiple_of(Self::PART_BYTES),
            "a part is aligned"
        );
        let rest = (self.n_words - first).next_multiple_of(4) - n_words.next_multiple_of(4);
        let handle = (*self.handle).clone();
        let handle = handle
            .offset_start(first as u64 * 4)
            .offset_end(rest as u64 * 4);
        Self {
            handle: Arc::new(handle),
            n_words,
        }
    }

    /// Whether both are all of the same memory.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    /// Whether nothing else reads these words, so that they can be changed in place.
    pub(super) fn is_unshared(&mut self) -> bool {
        Arc::get_mut(&mut self.handle).is_some()
    }
}

/// What the first panic on a thread of the runtime said. Such a thread goes on with its next task, and what
/// the failed one should have computed is left as it was: without this, nobody would know.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Remembers panics on the runtime's threads, and keeps them from the terminal: they become errors.
pub(super) fn watch_runtime() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            // The runtime names its threads DSU-type-index and DSD-type-index.
            let is_runtime = thread
                .name()
                .is_some_and(|name| name.starts_with("DSD-") || name.starts_with("DSU-"));
            if is_runtime {
                let mut first = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| info.to_string());
            } else {
                others(info);
            }
        }));
    });
}

/// What the runtime's first panic said, if there was one.
pub(super) fn runtime_panic() -> Option<String> {
    let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    panic.as_deref().map(first_lines)
}

/// What a device allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one array.
    pub buffer_bytes: u64,
    /// Workgroups along x, y and z.
    pub grid: (u32, u32, u32),
    /// Units of one workgroup.
    pub units: u32,
    /// Bytes that a workgroup shares.
    pub shared_bytes: usize,
}

/// A device and its limits.
pub(super) struct Device<R: Runtime> {
    client: ComputeClient<R>,
    name: String,
    limits: Limits,
    checked: bool,
}

impl<R: Runtime> Device<R> {
    /// Takes a client that has been made; see [`super::open()`] for what must be known before that.
    ///
    /// # Errors
    /// When the device allows less than the kernels need.
    pub(super) fn new(client: ComputeClient<R>, name: String) -> Result<Self, EngineError> {
        let hardware = &client.properties().hardware;
        let limits = Limits {
            buffer_bytes: client.properties().memory.max_page_size.min(MAX_BYTES),
            grid: hardware.max_cube_count,
            units: hardware.max_units_per_cube,
            shared_bytes: hardware.max_shared_memory_size,
        };
        let device = Self {
            client,
            name,
            limits,
            checked: true,
        };
        // The smallest that Vulkan guarantees is 128 units and 16 KiB.
        if limits.units < UNITS || limits.shared_bytes < 16 << 10 {
            return Err(device.error(format!(
                "kernels need workgroups of {UNITS} units with 16 KiB of shared memory; it has {} and {}",
                limits.units, limits.shared_bytes
            )));
        }
        Ok(device)
    }

    /// The runtime's client, for launches.
    pub(super) fn client(&self) -> &ComputeClient<R> {
        &self.client
    }

    /// What a person calls the device.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What it allows.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether kernels check every index. They do unless told otherwise.
    pub(super) fn is_checked(&self) -> bool {
        self.checked
    }

    /// Chooses whether kernels check every index.
    pub(super) fn set_checked(&mut self, checked: bool) {
        self.checked = checked;
    }

    /// An error of this device.
    pub(super) fn error(&self, message: impl Into<String>) -> EngineError {
        EngineError::Device {
            device: self.name.clone(),
            message: message.into(),
        }
    }

    /// Words whose values are unspecified.
    ///
    /// # Errors
    /// When they are more than one array may hold.
    pub(super) fn empty(&self, n_words: usize) -> Result<Words, EngineError> {
        let bytes = self.bytes(n_words)?;
        Ok(Words {
            handle: Arc::new(self.client.empty(bytes)),
            n_words,
        })
    }

    /// Bytes of an array of so many words, padded to 16.
    fn bytes(&self, n_words: usize) -> Result<usize, EngineError> {
        let bytes = n_words
            .max(1)
            .checked_next_multiple_of(4)
            .and_then(|n| n.checked_mul(4));
        bytes
            .filter(|&bytes| bytes as u64 <= self.limits.buffer_bytes)
            .ok_or_else(|| {
                self.error(format!(
                    "{n_words} values of 4 bytes are more than an array of {} bytes can hold; \
                     use shorter texts or another device",
                    self.limits.buffer_bytes
                ))
            })
    }

    /// Brings little-endian words to the device; a last word that is not whole is filled with zeros.
    ///
    /// # Errors
    /// When they are more than one array may hold.
    pub(super) fn upload_bytes(&self, mut bytes: Vec<u8>) -> Result<Words, EngineError> {
        let n_words = bytes.len().div_ceil(4);
        bytes.resize(self.bytes(n_words)?, 0);
        Ok(Words {
            handle: Arc::new(
                self.client
                    .create(cubecl::bytes::Bytes::from_bytes_vec(bytes)),
            ),
            n_words,
        })
    }

    /// Brings values to the device.
    ///
    /// # Errors
    /// When they are more than one array may hold.
    pub(super) fn upload(&self, values: &[f32]) -> Result<Words, EngineError> {
        self.upload_bytes(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Brings indices to the device.
    ///
    /// # Errors
    /// When they are more than one array may hold.
    pub(super) fn upload_indices(&self, values: &[u32]) -> Result<Words, EngineError> {
        self.upload_bytes(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Fetches values once all that was launched before has run.
    ///
    /// # Errors
    /// When something launched before has failed.
    pub(super) fn download(&self, words: &Words) -> Result<Vec<f32>, EngineError> {
        let bytes = self
            .client
            .read_one((*words.handle).clone())
            .map_err(|error| self.error(first_lines(&error.to_string())))?;
        self.demand_no_panic()?;
        let (words_, _) = bytes.as_chunks::<4>();
        Ok(words_
            .iter()
            .take(words.n_words)
            .map(|&b| f32::from_le_bytes(b))
            .collect())
    }

    /// Waits until all that was launched has run.
    ///
    /// # Errors
    /// When something of it has failed.
    pub(super) fn synchronize(&self) -> Result<(), EngineError> {
        cubecl::future::block_on(self.client.sync())
            .map_err(|error| self.error(first_lines(&error.to_string())))?;
        self.demand_no_panic()
    }

    /// Refuses results where the runtime has failed without saying so.
    fn demand_no_panic(&self) -> Result<(), EngineError> {
        match runtime_panic() {
            Some(panic) => Err(self.error(format!(
                "the runtime failed, and what it computed since cannot be trusted: {panic}"
            ))),
            None => Ok(()),
        }
    }

    /// A grid of at least so many workgroups: along x while x allows, otherwise in rows of y.
    /// The number of a workgroup is `CUBE_POS`; kernels ignore those beyond the last.
    ///
    /// # Errors
    /// When there are more than the device counts.
    pub(super) fn grid(&self, n_groups: usize) -> Result<CubeCount, EngineError> {
        let (x, y, _) = self.limits.grid;
        let n = u32::try_from(n_groups.max(1)).ok();
        let rows = n.map(|n| n.div_ceil(x)).filter(|&rows| rows <= y);
        match (n, rows) {
            (Some(n), Some(1)) => Ok(CubeCount::Static(n, 1, 1)),
            (Some(n), Some(rows)) => Ok(CubeCount::Static(n.div_ceil(rows), rows, 1)),
            _ => Err(self.error(format!("{n_groups} workgroups are more than it can count"))),
        }
    }

    /// A grid in which x, y and z mean something to the kernel.
    ///
    /// # Errors
    /// When a side is longer than the device allows.
    pub(super) fn grid_3d(&self, x: usize, y: usize, z: usize) -> Result<CubeCount, EngineError> {
        let (max_x, max_y, max_z) = self.limits.grid;
        if x > max_x as usize || y > max_y as usize || z > max_z as usize {
            return Err(self.error(format!(
                "a grid of {x} × {y} × {z} workgroups is larger than {max_x} × {max_y} × {max_z}"
            )));
        }
        Ok(CubeCount::Static(x as u32, y as u32, z as u32))
    }

    /// The words as a kernel's array.
    #[expect(unsafe_code)]
    pub(super) fn arg(&self, words: &Words) -> ArrayArg<R> {
        // SAFETY: the handle was made in this file for at least `n_words` words.
        unsafe { ArrayArg::from_raw_parts((*words.handle).clone(), words.n_words) }
    }

    /// The words as a kernel's array of vectors of four; the last may reach into the padding.
    #[expect(unsafe_code)]
    pub(super) fn arg4(&self, words: &Words) -> ArrayArg<R> {
        // The runtime counts scalars here, and divides.
        let n_words = words.n_words.next_multiple_of(4);
        // SAFETY: the memory behind the words is a whole number of 16 bytes (`bytes`).
        unsafe { ArrayArg::from_raw_parts((*words.handle).clone(), n_words) }
    }

    /// The words as a kernel's array of elements of 16 bits, or of vectors of them that fill it exactly.
    #[expect(unsafe_code)]
    pub(super) fn arg_of_halves(&self, words: &Words) -> ArrayArg<R> {
        // SAFETY: a word is two of them.
        unsafe { ArrayArg::from_raw_parts((*words.handle).clone(), words.n_words * 2) }
    }
}

/// The runtime's errors carry backtraces; a person wants what is before them.
fn first_lines(error: &str) -> String {
    let end = error.find("Backtrace").unwrap_or(error.len());
    error[..end].trim().chars().take(400).collect()
}

/// Launches a kernel with or without checks of every index, as the device is set.
macro_rules! launch {
    ($device:expr, $kernel:ident, $grid:expr, $units:expr, $($arg:expr),* $(,)?) => {{
        use cubecl::prelude::CubeDim;
        let device = $device;
        let (grid, units) = ($grid, CubeDim::new_1d($units));
        if device.is_checked() {
            $kernel::launch(device.client(), grid, units, $($arg),*);
        } else {
            // SAFETY: kernels of this crate read and write within the arrays they are given; the tests run
            // every one of them with checks and without.
            #[expect(unsafe_code)]
            unsafe { $kernel::launch_unchecked(device.client(), grid, units, $($arg),*) };
        }
    }};
}
pub(super) use launch;

/// Whether the NVIDIA driver and its runtime compiler can be loaded.
#[expect(unsafe_code)]
pub(super) fn cuda_libraries() -> (bool, bool) {
    // SAFETY: both functions load and unload a library by its name, nothing more.
    unsafe {
        (
            cudarc::driver::sys::is_culib_present(),
            cudarc::nvrtc::sys::is_culib_present(),
        )
    }
}
