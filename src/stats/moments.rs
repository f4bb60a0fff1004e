//! Streaming moments of one series, and joint moments of two, in f64.
//!
//! Slices are reduced on their own (mean first, then central moments, so nothing cancels) and merged
//! by the formulas of Chan et al. (1983) and Pébay (2008). The result depends on how a series was
//! cut into slices only by rounding, and for equal cuts it is equal bit for bit. A value that is not
//! finite makes every result NaN, which the records refuse.

/// Mean, spread and tails of one series.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    n: f64,
    mean: f64,
    m2: f64,
    m3: f64,
    m4: f64,
}

impl Moments {
    /// Adds the values of a slice.
    pub fn add_slice(&mut self, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let (mut m2, mut m3, mut m4) = (0.0, 0.0, 0.0);
        for &x in values {
            let d = f64::from(x) - mean;
            let square = d * d;
            m2 += square;
            m3 += square * d;
            m4 += square * square;
        }
        self.merge(Self {
            n,
            mean,
            m2,
            m3,
            m4,
        });
    }

    fn merge(&mut self, b: Self) {
        let a = *self;
        let n = a.n + b.n;
        let d = b.mean - a.mean;
        let (d2, d3, d4) = (d * d, d * d * d, d * d * d * d);
        *self = Self {
            n,
            mean: a.mean + d * b.n / n,
            m2: a.m2 + b.m2 + d2 * a.n * b.n / n,
            m3: a.m3
                + b.m3
                + d3 * a.n * b.n * (a.n - b.n) / (n * n)
                + 3.0 * d * (a.n * b.m2 - b.n * a.m2) / n,
            m4: a.m4
                + b.m4
                + d4 * a.n * b.n * (a.n * a.n - a.n * b.n + b.n * b.n) / (n * n * n)
                + 6.0 * d2 * (a.n * a.n * b.m2 + b.n * b.n * a.m2) / (n * n)
                + 4.0 * d * (a.n * b.m3 - b.n * a.m3) / n,
        };
    }

    /// Number of values.
    pub fn n(&self) -> f64 {
        self.n
    }

    /// Arithmetic mean; 0 without values.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Standard deviation with divisor n; 0 without values.
    pub fn std(&self) -> f64 {
        if self.n == 0.0 {
            0.0
        } else {
            (self.m2 / self.n).sqrt()
        }
    }

    /// m₄/m₂² − 3: 0 for a normal distribution; 0 for a constant series.
    pub fn excess_kurtosis(&self) -> f64 {
        // NaN must come through, hence not `self.m2 > 0.0`.
        if self.m2 == 0.0 {
            0.0
        } else {
            self.n * self.m4 / (self.m2 * self.m2) - 3.0
        }
    }
}

/// Joint second moments of two series of equal length.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CoMoments {
    n: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
    square_x: f64,
    square_difference: f64,
}

impl CoMoments {
    /// Adds the pairs of two slices.
    ///
    /// # Panics
    /// When their lengths differ: the caller paired what does not belong together.
    pub fn add_slices(&mut self, x: &[f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "paired slices must have one length");
        if x.is_empty() {
            return;
        }
        let n = x.len() as f64;
        let mean_x = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let mean_y = y.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let (mut xx, mut yy, mut xy, mut square_x, mut square_difference) =
            (0.0, 0.0, 0.0, 0.0, 0.0);
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (f64::from(x), f64::from(y));
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            yy += dy * dy;
            xy += dx * dy;
            square_x += x * x;
            square_difference += (y - x) * (y - x);
        }
        let total = self.n + n;
        let (dx, dy) = (mean_x - self.mean_x, mean_y - self.mean_y);
        let weight = self.n * n / total;
        self.xx += xx + dx * dx * weight;
        self.yy += yy + dy * dy * weight;
        self.xy += xy + dx * dy * weight;
        self.mean_x += dx * n / total;
        self.mean_y += dy * n / total;
        self.square_x += square_x;
        self.square_difference += square_difference;
        self.n = total;
    }

    /// Standard deviation of x with divisor n; 0 without values.
    pub fn std_x(&self) -> f64 {
        if self.n == 0.0 {
            0.0
        } else {
            (self.xx / self.n).sqrt()
        }
    }

    /// Cosine of the two series after their means are removed (Pearson's r); `None` where one of
    /// them is constant.
    pub fn centred_cosine(&self) -> Option<f64> {
        let norm = (self.xx * self.yy).sqrt();
        // Rounding may carry a perfect correlation past 1; NaN comes through.
        if norm == 0.0 {
            None
        } else {
            Some((self.xy / norm).clamp(-1.0, 1.0))
        }
    }

    /// ‖y − x‖ / ‖x‖; `None` where x is zero.
    pub fn relative_difference(&self) -> Option<f64> {
        (self.square_x != 0.0).then(|| (self.square_difference / self.square_x).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs().max(1.0)
    }

    #[test]
    fn cuts_do_not_matter_and_a_large_mean_does_not_cancel() {
        let values: Vec<f32> = (0..1000)
            .map(|i| 1000.0 + ((i * 37) % 101) as f32 / 8.0)
            .collect();
        let mut whole = Moments::default();
        whole.add_slice(&values);
        let mut cut = Moments::default();
        for slice in values.chunks(73) {
            cut.add_slice(slice);
        }
        assert!(close(cut.std(), whole.std()) && close(cut.mean(), whole.mean()));
        assert!(close(cut.excess_kurtosis(), whole.excess_kurtosis()));
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / 1000.0;
        let central = |k| {
            values
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(k))
                .sum::<f64>()
        };
        assert!(close(whole.std(), (central(2) / 1000.0).sqrt()));
        let kurtosis = 1000.0 * central(4) / central(2).powi(2) - 3.0;
        assert!(close(whole.excess_kurtosis(), kurtosis));
    }

    #[test]
    fn joint_moments_agree_with_their_definitions() {
        let x: Vec<f32> = (0..500).map(|i| ((i * 29) % 97) as f32 - 20.0).collect();
        let y: Vec<f32> = (0..500)
            .map(|i| ((i * 31) % 89) as f32 + 0.5 * x[i])
            .collect();
        let mut co = CoMoments::default();
        for (x, y) in x.chunks(64).zip(y.chunks(64)) {
            co.add_slices(x, y);
        }
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let expected = crate::stats::pearson(&wide(&x), &wide(&y)).unwrap();
        assert!(close(co.centred_cosine().unwrap(), expected));
        let difference: f64 = x
            .iter()
            .zip(&y)
            .map(|(x, y)| f64::from(y - x).powi(2))
            .sum();
        let size: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((co.relative_difference().unwrap() - (difference / size).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn nan_comes_through_and_constants_have_no_cosine() {
        let mut moments = Moments::default();
        moments.add_slice(&[1.0, f32::NAN]);
        assert!(moments.std().is_nan() && moments.excess_kurtosis().is_nan());
        let mut co = CoMoments::default();
        co.add_slices(&[1.0, 2.0], &[f32::NAN, 1.0]);
        assert!(co.centred_cosine().unwrap().is_nan());
        let mut constant = CoMoments::default();
        constant.add_slices(&[1.0, 1.0], &[0.0, 1.0]);
        assert_eq!(constant.centred_cosine(), None);
    }
}
