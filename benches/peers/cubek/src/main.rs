//! What cubek-matmul reaches on the card of the bench `gpu`: x Wᵀ with both in bf16 and the result in f32, by
//! each of its strategies; as Markdown rows.

use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::prelude::*;
use cubek_matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek_matmul::launch::{Strategy, launch_ref};
use cubek_std::InputBinding;
use half::bf16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

const REPEATS: usize = 5;
const BATCH: usize = 20;

type Client = cubecl::client::ComputeClient<CudaRuntime>;

fn strategies() -> Vec<(&'static str, Strategy)> {
    vec![
        ("auto", Strategy::Auto),
        ("double cyclic cmma", Strategy::DoubleCyclicCmma(Default::default())),
        ("double cyclic mma", Strategy::DoubleCyclicMma(Default::default())),
        ("double TMA cmma", Strategy::DoubleTmaCmma(Default::default())),
        ("double TMA mma", Strategy::DoubleTmaMma(Default::default())),
        ("specialized TMA mma", Strategy::SpecializedTmaMma(Default::default())),
        ("ordered double mma", Strategy::OrderedDoubleMma(Default::default())),
        ("simple TMA mma", Strategy::SimpleTmaMma(Default::default())),
    ]
}

fn seconds(client: &Client, n: usize, strategy: &Strategy) -> Result<f64, String> {
    let halves: Vec<u8> = (0..n * n)
        .flat_map(|i| {
            let v = (i.wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0;
            bf16::from_f32(v).to_le_bytes()
        })
        .collect();
    let (x, w) = (client.create_from_slice(&halves), client.create_from_slice(&halves));
    let out = client.empty(n * n * 4);
    let half = bf16::as_type_native_unchecked().storage_type();
    let elems = MatmulGlobalElems {
        lhs: half,
        rhs: half,
        out: f32::as_type_native_unchecked().storage_type(),
    };
    let call = || {
        // SAFETY: the handles were made above for n × n values.
        let tensor = |handle: &cubecl::server::Handle, transposed: bool| unsafe {
            let strides = if transposed { [1, n] } else { [n, 1] };
            TensorBinding::from_raw_parts(handle.clone(), strides.into(), [n, n].into())
        };
        launch_ref(
            strategy,
            client,
            InputBinding::new(tensor(&x, false), half),
            InputBinding::new(tensor(&w, true), half),
            tensor(&out, false),
            &mut MatmulElems::from_globals(&elems),
        )
        .map_err(|error| format!("{error:?}"))
    };
    let wait = || cubecl::future::block_on(client.sync()).map_err(|error| error.to_string());
    for _ in 0..3 {
        call()?;
    }
    wait()?;
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let started = Instant::now();
        for _ in 0..BATCH {
            call()?;
        }
        wait()?;
        times.push(started.elapsed().as_secs_f64() / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REPEATS / 2])
}

fn main() {
    let client = CudaRuntime::client(&CudaDevice::new(0));
    println!("| cubek-matmul 0.2.0 | n | TFLOP/s |\n|---|---:|---:|");
    for (name, strategy) in strategies() {
        for n in [1024, 2048, 4096, 8192] {
            let outcome = catch_unwind(AssertUnwindSafe(|| seconds(&client, n, &strategy)));
            match outcome {
                Ok(Ok(s)) => {
                    println!("| {name} | {n} | {:.1} |", 2.0 * (n as f64).powi(3) / s / 1e12);
                }
                Ok(Err(error)) => println!("| {name} | {n} | {} |", &error[..error.len().min(80)]),
                Err(_) => println!("| {name} | {n} | panicked |"),
            }
        }
    }
}
