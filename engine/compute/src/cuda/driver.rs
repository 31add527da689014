//! The NVIDIA driver, loaded at run time: a device, its memory, its modules, its one stream. All calls into it are here.
//!
//! A machine without a driver is usual, so nothing here may panic for the lack of it: the library and every function
//! that is called are looked for first ([`Device::open`]).

use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys;

use crate::error::{Error, Result};

/// CUDA 11.8: the oldest driver interface that is asked for anything.
const OLDEST_DRIVER: i32 = 11_080;
/// CUDA 12.3: captured graphs keep programmatic launches.
const PROGRAMMATIC_DRIVER: i32 = 12_030;

/// Every function of the driver that is called below. A missing one would be a panic inside `cudarc`.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemAllocHost_v2",
    "cuMemFreeHost",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuGetErrorString",
];

/// Why there is no GPU to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// No NVIDIA driver is installed. What most machines are.
    NoDriver,
    /// A driver, and no device that it lets this process use.
    NoDevice,
    /// A driver that is older than what is needed.
    TooOld(String),
    /// A driver that does not work.
    Broken(String),
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Absent::NoDriver => write!(f, "no NVIDIA driver (libcuda) is installed"),
            Absent::NoDevice => write!(f, "the NVIDIA driver has no device for this process"),
            Absent::TooOld(what) => write!(f, "the NVIDIA driver is too old: {what}"),
            Absent::Broken(what) => write!(f, "the NVIDIA driver does not work: {what}"),
        }
    }
}

/// What a failed call says.
fn checked(code: sys::CUresult, what: &str) -> Result<()> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(Error::Device(format!("{what}: {}", words(code))))
}

fn words(code: sys::CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver is loaded (a code came from it) and gives a static string or leaves the pointer null.
    unsafe {
        if sys::cuGetErrorString(code, &mut text) == sys::CUresult::CUDA_SUCCESS && !text.is_null() {
            return CStr::from_ptr(text).to_string_lossy().into_owned();
        }
    }
    format!("CUDA error {}", code as u32)
}

/// A GPU: its primary context and one stream in which everything happens in order.
pub struct Device {
    /// As the driver names it.
    pub name: String,
    /// Compute capability: 90 for 9.0.
    pub capability: u32,
    /// Of the driver: 12080 for 12.8.
    pub driver: i32,
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Kernels may start before the one before them has ended (they wait by themselves).
    programmatic: bool,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: the driver's handles may be used from any thread; `enter` makes the context current on the calling one.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Device {}

impl Device {
    /// Opens device `ordinal` of those that the driver shows.
    pub fn open(ordinal: i32) -> std::result::Result<Arc<Device>, Absent> {
        let broken = |e: Error| Absent::Broken(e.to_string());
        // SAFETY: looks for the library and for functions by name, and calls none of them.
        unsafe {
            if !sys::is_culib_present() {
                return Err(Absent::NoDriver);
            }
            for name in FUNCTIONS {
                if sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()).is_err() {
                    return Err(Absent::TooOld(format!("it has no {name}; CUDA 11.8 or later is needed")));
                }
            }
        }
        // SAFETY: every function exists; pointers are to locals of the right type, and their values are used only
        // after the call that fills them has succeeded.
        unsafe {
            match sys::cuInit(0) {
                sys::CUresult::CUDA_SUCCESS => {}
                sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(Absent::NoDevice),
                code => return Err(Absent::Broken(format!("cuInit: {}", words(code)))),
            }
            let (mut driver, mut count, mut device) = (0, 0, 0);
            checked(sys::cuDriverGetVersion(&mut driver), "cuDriverGetVersion").map_err(broken)?;
            if driver < OLDEST_DRIVER {
                return Err(Absent::TooOld(format!("CUDA {}.{}, 11.8 is needed", driver / 1000, driver % 1000 / 10)));
            }
            checked(sys::cuDeviceGetCount(&mut count), "cuDeviceGetCount").map_err(broken)?;
            if ordinal >= count {
                return Err(Absent::NoDevice);
            }
            checked(sys::cuDeviceGet(&mut device, ordinal), "cuDeviceGet").map_err(broken)?;
            let mut name = [0; 128];
            checked(sys::cuDeviceGetName(name.as_mut_ptr(), 127, device), "cuDeviceGetName").map_err(broken)?;
            let attribute = |which| {
                let mut value = 0;
                checked(sys::cuDeviceGetAttribute(&mut value, which, device), "cuDeviceGetAttribute")
                    .map(|()| value as u32)
                    .map_err(broken)
            };
            use sys::CUdevice_attribute as Attribute;
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            let capability = 10 * major + minor;
            if capability < 70 {
                return Err(Absent::TooOld(format!(
                    "the device has compute capability {major}.{minor}, 7.0 is needed"
                )));
            }
            let mut opened = Device {
                name: CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned(),
                capability,
                driver,
                processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                programmatic: capability >= 90 && driver >= PROGRAMMATIC_DRIVER,
                device,
                context: std::ptr::null_mut(),
                stream: std::ptr::null_mut(),
            };
            // From here on whatever fails drops the device, which gives back what it has.
            checked(sys::cuDevicePrimaryCtxRetain(&mut opened.context, device), "cuDevicePrimaryCtxRetain")
                .map_err(broken)?;
            opened.enter().map_err(broken)?;
            let non_blocking = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            checked(sys::cuStreamCreate(&mut opened.stream, non_blocking), "cuStreamCreate").map_err(broken)?;
            Ok(Arc::new(opened))
        }
    }

    /// Makes the context current on this thread. The public doors of the backend call it first.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained while `self` lives.
        checked(unsafe { sys::cuCtxSetCurrent(self.context) }, "cuCtxSetCurrent")
    }

    /// Free and total bytes.
    pub fn memory(&self) -> Result<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two locals to fill.
        checked(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "cuMemGetInfo")?;
        Ok((free, total))
    }

    /// Waits for everything that was asked of the stream.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        checked(unsafe { sys::cuStreamSynchronize(self.stream) }, "waiting for the GPU")
    }

    /// Zeroed memory.
    pub fn zeroed(self: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Memory> {
        let memory = Memory::new(self, bytes, what)?;
        // SAFETY: the allocation has `bytes` bytes (none: nothing is written).
        checked(unsafe { sys::cuMemsetD8Async(memory.address, 0, bytes, self.stream) }, "cuMemsetD8")?;
        Ok(memory)
    }

    /// Memory with these bytes. Waits, so that the source may go.
    pub fn uploaded(self: &Arc<Device>, bytes: &[u8], what: &'static str) -> Result<Memory> {
        let memory = Memory::new(self, bytes.len(), what)?;
        memory.write(0, bytes)?;
        Ok(memory)
    }

    /// Runs one kernel. `parameters` are its arguments in order, each a plain value of the kernel's own type.
    ///
    /// # Safety
    /// The arguments are what the kernel of this name takes, and every address in them is of memory of this device that
    /// lives until the stream has been waited for, and is as large as the kernel's shapes say.
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: [u32; 2],
        block: u32,
        shared: u32,
        parameters: &[&[u8]],
    ) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = parameters.iter().map(|p| p.as_ptr() as *mut c_void).collect();
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: 1,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared,
            hStream: self.stream,
            attrs: &mut attribute,
            numAttrs: u32::from(self.programmatic),
        };
        // SAFETY: configuration and arguments outlive the call, which copies them; the rest is the caller's promise.
        let code =
            unsafe { sys::cuLaunchKernelEx(&config, kernel.function, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        checked(code, kernel.name)
    }

    /// Records what `work` asks of the stream, to be run again and again.
    pub fn record(self: &Arc<Device>, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is this device's; capture ends on every path; handles are used after success only.
        unsafe {
            checked(sys::cuStreamBeginCapture_v2(self.stream, relaxed), "cuStreamBeginCapture")?;
            let done = work();
            let ended = checked(sys::cuStreamEndCapture(self.stream, &mut graph), "cuStreamEndCapture");
            let made = done
                .and(ended)
                .and_then(|()| checked(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0), "cuGraphInstantiate"));
            if !graph.is_null() {
                sys::cuGraphDestroy(graph);
            }
            made?;
        }
        Ok(Graph { exec, device: self.clone() })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: nobody holds the device any more; handles that are not null are ours.
        unsafe {
            if self.context.is_null() {
                return;
            }
            sys::cuCtxSetCurrent(self.context);
            if !self.stream.is_null() {
                sys::cuStreamDestroy_v2(self.stream);
            }
            sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// Recorded work.
pub struct Graph {
    exec: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: a graph may be launched from any thread, one at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// Asks the stream to do it again.
    ///
    /// # Safety
    /// Everything that was recorded is still sound to run: its memory lives.
    pub unsafe fn launch(&self) -> Result<()> {
        // SAFETY: the graph is ours; the rest is the caller's promise.
        checked(unsafe { sys::cuGraphLaunch(self.exec, self.device.stream) }, "cuGraphLaunch")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and the device still lives.
        unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}

/// Memory of the device.
pub struct Memory {
    address: sys::CUdeviceptr,
    bytes: usize,
    device: Arc<Device>,
}

impl Memory {
    fn new(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Memory> {
        let mut address = 0;
        if bytes > 0 {
            // SAFETY: a local to fill.
            match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
                //= F-GPU-127
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    let free = device.memory().map_or(0, |m| m.0);
                    return Err(Error::DeviceMemory { bytes, free, what });
                }
                code => checked(code, "cuMemAlloc")?,
            }
        }
        Ok(Memory { address, bytes, device: device.clone() })
    }

    /// Where it begins, for kernels.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes bytes at an offset. Waits, so that the source may go.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        assert!(at + bytes.len() <= self.bytes, "{} bytes at {at} of {}", bytes.len(), self.bytes);
        if bytes.is_empty() {
            return Ok(());
        }
        let (to, from) = (self.address + at as u64, bytes.as_ptr().cast());
        // SAFETY: source and target have the bytes, as checked.
        checked(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes.len(), self.device.stream) }, "a copy to the GPU")?;
        self.device.wait()
    }

    /// Writes from pinned memory, in the order of the stream; waits for nothing.
    pub fn write_pinned(&self, from: &Pinned, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes && bytes <= from.bytes);
        // SAFETY: both have the bytes, as checked; the pinned memory is not written to before the stream was waited for
        // (its only user is the runner, whose step ends with that).
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(self.address, from.start, bytes, self.device.stream) };
        checked(code, "a copy to the GPU")
    }

    /// Reads bytes at an offset. Waits.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        assert!(at + into.len() <= self.bytes, "{} bytes at {at} of {}", into.len(), self.bytes);
        if into.is_empty() {
            return Ok(());
        }
        let from = self.address + at as u64;
        // SAFETY: source and target have the bytes, as checked, and are waited for before the borrow ends.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(into.as_mut_ptr().cast(), from, into.len(), self.device.stream) };
        checked(code, "a copy from the GPU")?;
        self.device.wait()
    }

    /// Copies all of it over `other`, in the order of the stream.
    pub fn copy_range(&self, from: usize, to: &Memory, at: usize, bytes: usize) -> Result<()> {
        assert!(from + bytes <= self.bytes && at + bytes <= to.bytes);
        let (to, from) = (to.address + at as u64, self.address + from as u64);
        // SAFETY: both ranges exist, as checked.
        checked(unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.device.stream) }, "a copy on the GPU")
    }
}

impl Drop for Memory {
    //= F-GPU-126
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the allocation is ours; the stream may still use it, so it is waited for.
            unsafe {
                sys::cuCtxSetCurrent(self.device.context);
                sys::cuStreamSynchronize(self.device.stream);
                sys::cuMemFree_v2(self.address);
            }
        }
    }
}

/// Page-locked memory of the host, which copies need not stage.
pub struct Pinned {
    start: *mut c_void,
    bytes: usize,
    device: Arc<Device>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Zeroed.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Pinned> {
        let mut start = std::ptr::null_mut();
        // SAFETY: a local to fill, then `bytes` bytes that were just allocated.
        unsafe {
            checked(sys::cuMemAllocHost_v2(&mut start, bytes.max(1)), "cuMemAllocHost")?;
            std::ptr::write_bytes(start.cast::<u8>(), 0, bytes);
        }
        Ok(Pinned { start, bytes, device: device.clone() })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins, for kernels: the device sees it at the same address.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Its bytes, to read once the stream was waited for.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size and zeroed; kernels that write to it are waited for, as above.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes) }
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size and zeroed; one owner.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the allocation is ours; no copy from it is under way once the stream was waited for.
        unsafe {
            sys::cuCtxSetCurrent(self.device.context);
            sys::cuStreamSynchronize(self.device.stream);
            sys::cuMemFreeHost(self.start);
        }
    }
}

/// Compiled kernels.
pub struct Module {
    module: sys::CUmodule,
    device: Arc<Device>,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// One kernel of a [`Module`], which its owner keeps.
pub struct Kernel {
    name: &'static str,
    function: sys::CUfunction,
}

// SAFETY: as for `Module`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Module`.
unsafe impl Sync for Kernel {}

impl Module {
    /// A cubin, or PTX that ends with a zero byte, which the driver compiles.
    pub fn load(device: &Arc<Device>, image: &[u8]) -> Result<Module> {
        let mut module = std::ptr::null_mut();
        // SAFETY: a cubin says its own length, and PTX ends with a zero; both come from `images`, not from outside.
        checked(unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) }, "loading the kernels")?;
        Ok(Module { module, device: device.clone() })
    }

    /// A kernel, with leave to use `shared` bytes of dynamic shared memory.
    pub fn kernel(&self, name: &'static str, shared: u32) -> Result<Kernel> {
        let mut function = std::ptr::null_mut();
        let c_name = CString::new(name).map_err(|_| Error::Device(format!("{name} is no name")))?;
        // SAFETY: the module is loaded; a local to fill.
        unsafe {
            checked(sys::cuModuleGetFunction(&mut function, self.module, c_name.as_ptr()), name)?;
            if shared > 48 << 10 {
                let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                checked(sys::cuFuncSetAttribute(function, most, shared as i32), name)?;
            }
        }
        Ok(Kernel { name, function })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the handle is ours; its kernels are dropped with their owner, and nothing runs any more.
        unsafe {
            sys::cuCtxSetCurrent(self.device.context);
            sys::cuStreamSynchronize(self.device.stream);
            sys::cuModuleUnload(self.module);
        }
    }
}
