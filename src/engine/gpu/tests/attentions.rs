//! Attention, whole, split and in chunks.

use super::{Check, assert_close, on_a_device, upload, values};
use crate::engine::backend::{AttentionShape, Backend, Slopes};
use crate::engine::gpu::backend::Gpu;
use crate::engine::gpu::kernels::attention::{self, Span, Split};
use cubecl::prelude::Runtime;

struct Attentions;
impl Check for Attentions {
    fn check<R: Runtime>(gpu: &mut Gpu<R>) {
        let base = AttentionShape {
            n_heads: 2,
            n_kv_heads: 2,
            head_dim: 8,
            value_dim: 8,
            scale: 0.4,
            softcap: None,
            window: None,
            slopes: None,
            causal: true,
        };
        let shapes = [
            (base.clone(), 1),
            (
                AttentionShape {
                    n_heads: 6,
                    head_dim: 20,
                    value_dim: 12,
                    ..base.clone()
                },
                130,
            ),
            (
                AttentionShape {
                    n_heads: 4,
                    n_kv_heads: 1,
                    head_dim: 7,
                    value_dim: 130,
                    softcap: Some(2.0),
                    window: Some(9),
                    ..base.clone()
                },
                140,
            ),
            (
                AttentionShape {
                    n_kv_heads: 1,
                    head_dim: 256,
                    value_dim: 256,
                    causal: false,
                    ..base.clone()
                },
                33,
            ),
            (
                AttentionShape {
                    slopes: Some(Slopes {
                        per_head: vec![0.25, -0.01],
                        bfloat16: false,
                        factor: 1.0,
                    }),
                    window: Some(200),
                    ..base.clone()
                },
                300,
            ),
            (
                AttentionShape {
                    n_heads: 8,
                    head_dim: 12,
                    value_dim: 16,
                    softcap: Some(3.0),
                    window: Some(150),
                    ..base.clone()
                },
                290,
            ),
            (
                AttentionShape {
                    n_heads: 4,
                    head_dim: 16,
                    value_dim: 20,
                    causal: false,
                    ..base.clone()
                },
                200,
            ),
        ];
        for (case, (shape, n)) in shapes.iter().enumerate() {
            let (n, kw, vw) = (
                *n,
                shape.n_kv_heads * shape.head_dim,
                shape.n_kv_heads * shape.value_dim,
            );
            let q = values(n * shape.n_heads * shape.head_dim, 14);
            let (mut k, v) = (values(n * kw, 15), values(n * vw, 16));
            if n > 100 {
                k[(n / 2) * kw] = f32::NAN;
            }
            let (bq, bk, bv) = (
                upload(gpu, &q, q.len() / n),
                upload(gpu, &k, kw),
                upload(gpu, &v, vw),
            );
            let mut cache = gpu
                .cache(n + 3, shape.n_kv_heads, shape.head_dim, shape.value_dim)
                .unwrap();
            gpu.append(&mut cache, 0, &bk, &bv, 0..n / 3).unwrap();
            gpu.append(&mut cache, n / 3, &bk, &bv, n / 3..n).unwrap();
            let span = Span {
                first_row: 0,
                n_rows: n,
                at: 0,
            };
            let right = attention::plain(&q, (&k, &v), span, shape);
            let by = |rows: std::ops::Range<usize>, at, split| {
                gpu.download(
                    &gpu.attention_by(&bq, rows, &cache, at, shape, split)
                        .unwrap(),
                )
                .unwrap()
            };
            let whole = by(0..n, 0, Split::Never);
            assert_close(&format!("attention {case}"), &whole, &right, 2e-5);
            let bits = |v: &[f32]| {
                v.iter()
                    .map(|x| if x.is_nan() { 1 } else { x.to_bits() })
                    .collect::<Vec<u32>>()
            };
            assert_eq!(
                bits(&whole),
                bits(&by(0..n, 0, Split::Always)),
                "{case}: split"
            );
            assert_eq!(
                bits(&whole),
                bits(&by(0..n, 0, Split::Auto)),
                "{case}: auto"
            );
            if shape.causal {
                // The same rows in chunks, and one alone.
                let width = whole.len() / n;
                let (cut, mut parts) = (n / 2, Vec::new());
                if cut > 0 {
                    parts.extend(by(0..cut, 0, Split::Auto));
                }
                parts.extend(by(cut..n, cut, Split::Auto));
                assert_eq!(bits(&whole), bits(&parts), "{case}: chunks");
                assert_eq!(
                    bits(&whole[(n - 1) * width..]),
                    bits(&by(n - 1..n, n - 1, Split::Auto)),
                    "{case}: alone"
                );
            }
        }
        let cache = gpu.cache(4, 2, 8, 8).unwrap();
        let q = upload(gpu, &values(16 * 5, 1), 16);
        assert!(
            gpu.attention(&q, 0..5, &cache, 0, &base).is_err(),
            "beyond the cache"
        );
    }
}

#[test]
fn attention_is_right_and_the_same_bits_however_a_text_is_cut() {
    on_a_device::<Attentions>();
}
