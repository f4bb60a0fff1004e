//! Which layers are looked at: the rule that every report states.

use super::context::Settings;

/// Layers taken of a stack of `n_layers`: all of a shallow one; of a deep one the first, the last and
/// an even spread between, `settings.n_layers` of them.
pub fn chosen(n_layers: u32, settings: &Settings) -> Vec<u32> {
    let k = settings.n_layers.max(2) as u32;
    // Twice the number that would be taken is still quick, and spares small models the sampling.
    if settings.all_layers || n_layers <= 2 * k {
        return (0..n_layers).collect();
    }
    (0..k).map(|i| i * (n_layers - 1) / (k - 1)).collect()
}

/// The rule in words, for the report.
pub fn rule(n_layers: u32, settings: &Settings) -> String {
    let layers = chosen(n_layers, settings);
    if n_layers == 0 {
        "all there is: the reference has no layers".to_owned()
    } else if layers.len() == n_layers as usize {
        format!("all {n_layers} layers of the reference")
    } else {
        let list: Vec<String> = layers.iter().map(u32::to_string).collect();
        format!(
            "layers {} of {n_layers} of the reference: first, last and an even spread \
             (`--all-layers` takes all)",
            list.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shallow_models_are_taken_whole_and_deep_ones_keep_both_ends() {
        let settings = Settings {
            n_layers: 4,
            ..Settings::default()
        };
        assert_eq!(chosen(8, &settings), (0..8).collect::<Vec<_>>());
        assert_eq!(chosen(32, &settings), vec![0, 10, 20, 31]);
        let all = Settings {
            all_layers: true,
            ..settings
        };
        assert_eq!(chosen(80, &all).len(), 80);
    }
}
