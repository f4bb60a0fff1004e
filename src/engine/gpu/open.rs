//! Choosing a device by name, and saying what is missing where there is none.
//!
//! The runtimes panic where a driver, a compiler or a header is missing, and stay unusable after that.
//! So everything they need is looked for first, and what a first kernel returns is looked at.

use super::backend::{Gpu, Precision};
use super::device::{cuda_libraries, runtime_panic, watch_runtime};
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::device::Visitor;
use crate::engine::row_products::RowProducts;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::Runtime;
use cubecl::wgpu::{AutoGraphicsApi, GraphicsApi, WgpuDevice, WgpuRuntime};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A device that has been opened.
pub enum GpuBackend {
    /// By CUDA.
    Cuda(Gpu<CudaRuntime>),
    /// By Vulkan or Metal.
    Wgpu(Gpu<WgpuRuntime>),
}

impl GpuBackend {
    /// Hands the backend to a visitor.
    pub fn visit<V: Visitor>(self, visitor: V) -> V::Output {
        match self {
            Self::Cuda(gpu) => visitor.visit(gpu),
            Self::Wgpu(gpu) => visitor.visit(gpu),
        }
    }

    /// The device as a multiplier of rows.
    pub fn into_row_products(self) -> Arc<dyn RowProducts> {
        match self {
            Self::Cuda(gpu) => Arc::new(gpu),
            Self::Wgpu(gpu) => Arc::new(gpu),
        }
    }

    /// What a person calls the device.
    pub fn describe(&self) -> String {
        match self {
            Self::Cuda(gpu) => Backend::describe(gpu),
            Self::Wgpu(gpu) => Backend::describe(gpu),
        }
    }
}

fn error(device: &str, message: impl Into<String>) -> EngineError {
    EngineError::Device {
        device: device.to_owned(),
        message: message.into(),
    }
}

/// Opens a device: `auto`, `cuda`, `cuda:1`, `vulkan`, `vulkan:1`, `metal`, `metal:1`; or `cuda-bf16`, the same
/// card with [`Precision::Bf16`].
///
/// `auto` is the first CUDA device, else the first graphics card; never a software renderer, which is
/// slower than the CPU kernels. `vulkan` without a number takes a software renderer if there is no card.
///
/// # Errors
/// When there is no such device, or something it needs is not installed; the message says what.
pub fn open(name: &str) -> Result<GpuBackend, EngineError> {
    let (kind, number) = match name.split_once(':') {
        Some((kind, number)) => {
            let number = number.parse().map_err(|_| {
                error(
                    name,
                    "what follows the colon is the device's number: cuda:0",
                )
            })?;
            (kind, number)
        }
        None => (name, 0),
    };
    match kind {
        "cuda" => cuda(number).map(GpuBackend::Cuda),
        "cuda-bf16" => {
            let mut gpu = cuda(number)?;
            gpu.set_precision(Precision::Bf16)?;
            Ok(GpuBackend::Cuda(gpu))
        }
        "vulkan" | "metal" => {
            let here = api_name();
            if kind == here {
                wgpu(number).map(GpuBackend::Wgpu)
            } else {
                Err(error(name, format!("not on this system; use {here}")))
            }
        }
        "auto" if name == "auto" => match cuda(0) {
            Ok(gpu) => Ok(GpuBackend::Cuda(gpu)),
            Err(no_cuda) => {
                let card = adapters().into_iter().find(|a| !a.is_software);
                let card = card.ok_or_else(|| {
                    error(
                        "auto",
                        format!(
                            "no graphics card; use cpu ({no_cuda}; no {} device)",
                            api_name()
                        ),
                    )
                })?;
                wgpu(card.number).map(GpuBackend::Wgpu)
            }
        },
        _ => Err(error(
            name,
            "devices are auto, cpu, cuda, cuda-bf16, vulkan and metal, with :1 for the second of its kind",
        )),
    }
}

/// The devices that can be named, each with its description; software renderers included.
pub fn devices() -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Ok(count) = cuda_count() {
        for number in 0..count {
            found.push((format!("cuda:{number}"), cuda_name(number)));
        }
    }
    for adapter in adapters() {
        found.push((format!("{}:{}", api_name(), adapter.number), adapter.name));
    }
    found
}

/// Devices of the driver, or what is missing.
fn cuda_count() -> Result<usize, EngineError> {
    let (driver, compiler) = cuda_libraries();
    if !driver {
        return Err(error("cuda", "no NVIDIA driver (libcuda)"));
    }
    if !compiler {
        return Err(error(
            "cuda",
            "no NVRTC (libnvrtc, part of the CUDA toolkit) on the library path",
        ));
    }
    let toolkit = cubecl::cuda::install::cuda_path();
    if !toolkit.is_some_and(|path| path.join("include/cuda_fp16.h").is_file()) {
        return Err(error(
            "cuda",
            "no headers of the CUDA toolkit; CUDA_PATH names where it is installed",
        ));
    }
    match cudarc::driver::CudaContext::device_count() {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(problem) => Err(error(
            "cuda",
            format!("the driver does not start: {problem}"),
        )),
    }
}

fn cuda_name(number: usize) -> String {
    let index = i32::try_from(number).unwrap_or(i32::MAX);
    cudarc::driver::result::device::get(index)
        .and_then(cudarc::driver::result::device::get_name)
        .unwrap_or_else(|_| "CUDA device".into())
}

fn cuda(number: usize) -> Result<Gpu<CudaRuntime>, EngineError> {
    let name = format!("cuda:{number}");
    let count = cuda_count()?;
    if number >= count {
        return Err(error(&name, format!("the driver knows {count} devices")));
    }
    let full_name = format!("{name} {}", cuda_name(number));
    start(full_name, || CudaRuntime::client(&CudaDevice::new(number)))
}

/// A device of Vulkan or Metal.
struct Adapter {
    number: usize,
    name: String,
    device: WgpuDevice,
    is_software: bool,
}

fn api_name() -> &'static str {
    if cfg!(target_os = "macos") {
        "metal"
    } else {
        "vulkan"
    }
}

/// Cards first, software renderers last; within a type as the system lists them, as the runtime counts.
fn adapters() -> Vec<Adapter> {
    let backend = AutoGraphicsApi::backend();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: backend.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let all = cubecl::future::block_on(instance.enumerate_adapters(backend.into()));
    type Numbered = fn(usize) -> WgpuDevice;
    let kinds: [(wgpu::DeviceType, Numbered); 4] = [
        (wgpu::DeviceType::DiscreteGpu, WgpuDevice::DiscreteGpu),
        (wgpu::DeviceType::IntegratedGpu, WgpuDevice::IntegratedGpu),
        (wgpu::DeviceType::VirtualGpu, WgpuDevice::VirtualGpu),
        (wgpu::DeviceType::Cpu, |_| WgpuDevice::Cpu),
    ];
    let mut found: Vec<Adapter> = Vec::new();
    for (kind, device) in kinds {
        let same = all
            .iter()
            .map(wgpu::Adapter::get_info)
            .filter(|info| info.device_type == kind);
        for (index, info) in same.enumerate() {
            let is_software = kind == wgpu::DeviceType::Cpu;
            // The runtime addresses the first software renderer only.
            if is_software && index > 0 {
                continue;
            }
            found.push(Adapter {
                number: found.len(),
                name: info.name,
                device: device(index),
                is_software,
            });
        }
    }
    found
}

fn wgpu(number: usize) -> Result<Gpu<WgpuRuntime>, EngineError> {
    let name = format!("{}:{number}", api_name());
    let mut adapters = adapters();
    if number >= adapters.len() {
        let problem = if adapters.is_empty() {
            "no driver offers a device; a graphics driver or Mesa's software renderer would".into()
        } else {
            format!("there are {} devices", adapters.len())
        };
        return Err(error(&name, problem));
    }
    let adapter = adapters.swap_remove(number);
    start(format!("{name} {}", adapter.name), || {
        WgpuRuntime::client(&adapter.device)
    })
}

/// Makes the client and runs a kernel: a last resort against what was not looked for.
fn start<R: Runtime>(
    name: String,
    client: impl FnOnce() -> cubecl::prelude::ComputeClient<R>,
) -> Result<Gpu<R>, EngineError> {
    watch_runtime();
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let gpu = Gpu::new(client(), name.clone())?;
        let mut x = gpu.upload(&[1.0, f32::NAN, -3.0], 1, 3)?;
        gpu.scale(&mut x, 2.0)?;
        let values = gpu.download(&x)?;
        if values[0] == 2.0 && values[1].is_nan() && values[2] == -6.0 {
            Ok(gpu)
        } else {
            Err(error(
                &name,
                format!("a first kernel returns {values:?} for 2, NaN, -6"),
            ))
        }
    }));
    opened.unwrap_or_else(|_| {
        let why = runtime_panic().unwrap_or_else(|| "see above".into());
        Err(error(
            &name,
            format!("the driver cannot run kernels ({why})"),
        ))
    })
}
