use super::*;

/// A model file of the given pieces and more fields.
fn file(pieces: &[(&str, u8)], more: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (text, kind) in pieces {
        let mut message = vec![0x0a, text.len() as u8];
        message.extend(text.as_bytes());
        message.extend([0x15, 0, 0, 0x80, 0xbf, 0x18, *kind]);
        bytes.extend([0x0a, message.len() as u8]);
        bytes.extend(message);
    }
    bytes.extend(more);
    bytes
}

const PIECES: &[(&str, u8)] = &[("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁the", 1)];

#[test]
fn pieces_and_settings_are_read() {
    // Trainer: BPE, byte fallback, eos -1. Normalizer: no dummy prefix.
    let more = [
        0x12, 17, 0x18, 2, 0x98, 2, 1, 0xd0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 1, 0x1a, 2, 0x18, 0,
    ];
    let model = read(&file(PIECES, &more)).unwrap();
    assert_eq!(model.algorithm, Algorithm::Bpe);
    assert_eq!((model.bos_id, model.eos_id), (Some(1), None));
    assert!(model.byte_fallback && !model.add_dummy_prefix && model.escape_whitespaces);
    assert_eq!(model.pieces[3].text, "▁the");
    assert_eq!(
        (model.pieces[0].score, model.pieces[0].kind),
        (-1.0, Kind::Unknown)
    );
}

#[test]
fn every_truncation_is_an_error_or_fewer_pieces_and_never_a_panic() {
    let whole = file(PIECES, &[0x12, 2, 0x18, 2]);
    for n in 0..whole.len() {
        if let Ok(model) = read(&whole[..n]) {
            assert!(model.pieces.len() <= 4);
        }
    }
}

#[test]
fn what_no_trainer_writes_is_refused_by_name() {
    let twice = [PIECES, &[("▁the", 1)]].concat();
    let wild = [PIECES, &[("x", 9)]].concat();
    for (bytes, told) in [
        (file(&twice, &[]), "twice"),
        (file(&wild, &[]), "unknown type 9"),
        (file(&PIECES[..1], &[]), "one of 1 pieces"),
        (file(PIECES, &[0x12, 2, 0x18, 3]), "whole words"),
        (file(PIECES, &[0x12, 2, 0x18, 77]), "model type 77"),
        (file(PIECES, &[0x0b]), "wire type 3"),
        (vec![0x80; 11], "ten bytes"),
        (
            vec![
                0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            "bytes where",
        ),
        (
            vec![0x0a, 7, 0x0a, 0, 0x15, 0, 0, 0xc0, 0x7f],
            "no finite score",
        ),
        (Vec::new(), "found none"),
    ] {
        let message = read(&bytes).unwrap_err();
        assert!(message.contains(told), "{message}");
    }
}

#[test]
fn a_trie_is_walked_only_where_every_step_stays_inside() {
    let map = |units: &[u32], texts: &[u8]| -> Vec<u8> {
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts);
        bytes
    };
    let mut units = vec![0u32; 512];
    // The root points to block 256; under 'a' there is a leaf whose value is text 0.
    units[0] = 256 << 10;
    units[256 ^ 0x61] = 0x61 | 1 << 8 | 0x61 << 10;
    units[256] = 1 << 31;
    assert_eq!(check_charsmap(&map(&units, b"b\0")), Ok(()));
    units[256] = 1 << 31 | 9;
    assert!(
        check_charsmap(&map(&units, b"b\0"))
            .unwrap_err()
            .contains("text 9")
    );
    units[256] = 1 << 31 | 1;
    assert!(check_charsmap(&map(&units, "é\0".as_bytes())).is_err());
    units[0] = 512 << 10;
    assert!(
        check_charsmap(&map(&units, b"b\0"))
            .unwrap_err()
            .contains("beyond")
    );
    assert!(check_charsmap(&[1, 2]).is_err());
    assert!(
        check_charsmap(&[0xff; 64])
            .unwrap_err()
            .contains("bytes where")
    );
}
