//! Times candle on the model of the bench `engine`: a line of JSON.
//!
//! `candle-peer MODEL N_PROMPT N_GENERATED N_RUNS`

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use std::time::Instant;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = std::path::Path::new(&arguments[0]);
    let number = |i: usize| arguments[i].parse::<usize>();
    let (n_prompt, n_generated, n_runs) = (number(1)?, number(2)?, number(3)?);
    let config = std::fs::read(folder.join("config.json"))?;
    let config: LlamaConfig = serde_json::from_slice(&config)?;
    let config = config.into_config(false);
    for dtype in [DType::F32, DType::BF16] {
        let bytes = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, dtype, &Device::Cpu)?;
        let model = Llama::load(weights, &config)?;
        let ids: Vec<u32> = (0..n_prompt).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
        let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
        for run in 0..=n_runs {
            let mut cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
            let started = Instant::now();
            let input = Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
            let mut logits = model.forward(&input, 0, &mut cache)?;
            let prefilled = started.elapsed().as_secs_f64();
            let started = Instant::now();
            for at in n_prompt..n_prompt + n_generated - 1 {
                let next = logits.squeeze(0)?.argmax(0)?.to_scalar::<u32>()?;
                let input = Tensor::new(&[next], &Device::Cpu)?.unsqueeze(0)?;
                logits = model.forward(&input, at, &mut cache)?;
            }
            if run > 0 {
                prefills.push(prefilled);
                decodes.push(started.elapsed().as_secs_f64());
            }
        }
        let what = format!("candle, cpu, {dtype:?}");
        let (prefill_s, decode_s) = (median(prefills), median(decodes));
        println!("{}", serde_json::json!({"what": what, "prefill_s": prefill_s, "decode_s": decode_s}));
    }
    Ok(())
}
