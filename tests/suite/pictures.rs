//! Pictures: cut, resized and decoded as MiniCPM-V's published code and Pillow do it; hostile ones refused.

use modelkin::arch::spec::SliceSpec;
use modelkin::engine::vision::resize::resize;
use modelkin::engine::vision::{Picture, SlicePlan};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;

const SPEC: SliceSpec = SliceSpec {
    max_slices: 9,
    resolution: 448,
    patch_size: 14,
};

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vision")
}

pub fn json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(data().join(name)).unwrap()).unwrap()
}

pub fn pair(value: &Value) -> (usize, usize) {
    let at = |i: usize| value[i].as_u64().unwrap() as usize;
    (at(0), at(1))
}

/// The picture by a formula, as in `tests/scripts/make_vision_reference.py`.
pub fn picture(width: usize, height: usize) -> Picture {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            rgb.extend((0..3).map(|c| {
                let value = (x * x * (c + 3) + y * 37 * (c + 1) + x * y * 11) >> 2;
                (value % 256) as u8
            }));
        }
    }
    Picture { width, height, rgb }
}

pub fn digest(picture: &Picture) -> String {
    let hash = Sha256::digest(&picture.rgb);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn images_of_every_size_are_cut_as_published() {
    let table = json("slices.json");
    let table = table.as_array().unwrap();
    assert!(table.len() >= 50, "{} sizes", table.len());
    for row in table {
        let (width, height) = pair(&row["size"]);
        let plan = SlicePlan::new(width, height, &SPEC);
        assert_eq!(plan.whole, pair(&row["whole"]), "{width} × {height}");
        let ours = plan.grid.map(|grid| {
            let (w, h) = grid.size;
            vec![
                grid.n_columns as u64,
                grid.n_rows as u64,
                w as u64,
                h as u64,
            ]
        });
        let theirs: Option<Vec<u64>> = row["grid"]
            .as_array()
            .map(|grid| grid.iter().map(|n| n.as_u64().unwrap()).collect());
        assert_eq!(ours, theirs, "{width} × {height}");
    }
}

#[test]
fn resizing_gives_the_bytes_of_pillow() {
    for row in json("pictures.json")["resized"].as_array().unwrap() {
        let ((from_width, from_height), (width, height)) = (pair(&row["from"]), pair(&row["to"]));
        let resized = resize(&picture(from_width, from_height), width, height);
        assert_eq!((resized.width, resized.height), (width, height));
        assert_eq!(digest(&resized), row["sha256"], "{row}");
    }
}

#[test]
fn slices_have_the_bytes_of_the_published_preprocessing() {
    for row in json("pictures.json")["cut"].as_array().unwrap() {
        let (width, height) = pair(&row["size"]);
        let cut = SlicePlan::new(width, height, &SPEC).cut(&picture(width, height));
        let ours: Vec<String> = std::iter::once(&cut.whole)
            .chain(&cut.slices)
            .map(digest)
            .collect();
        let theirs: Vec<&str> = row["sha256"]
            .as_array()
            .unwrap()
            .iter()
            .map(|digest| digest.as_str().unwrap())
            .collect();
        assert_eq!(ours, theirs, "{width} × {height}");
    }
}

#[test]
fn files_are_decoded_as_by_pillow() {
    let decoded = json("pictures.json");
    let decoded = decoded["decoded"].as_object().unwrap();
    assert!(decoded.len() >= 9);
    for (name, theirs) in decoded {
        let ours = Picture::decode(name, &fs::read(data().join(name)).unwrap()).unwrap();
        assert_eq!((ours.width, ours.height), pair(&theirs["size"]), "{name}");
        let Some(values) = theirs["rgb"].as_str() else {
            assert_eq!(digest(&ours), theirs["sha256"], "{name}");
            continue;
        };
        // The standard leaves the rounding of JPEG's transform to the decoder.
        let byte = |i: usize| u8::from_str_radix(&values[2 * i..2 * i + 2], 16).unwrap();
        assert_eq!(2 * ours.rgb.len(), values.len(), "{name}");
        let greatest = (0..ours.rgb.len())
            .map(|i| ours.rgb[i].abs_diff(byte(i)))
            .max()
            .unwrap();
        println!("{name}: greatest difference {greatest}");
        assert!(greatest <= 3, "{name}: greatest difference {greatest}");
    }
}

/// A PNG's first chunk, with these sides.
fn header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = fs::read(data().join("rgb.png")).unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let check = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// The check sum of PNG's chunks.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc))
    })
}

#[test]
fn hostile_pictures_are_errors() {
    let png = fs::read(data().join("rgb.png")).unwrap();
    let jpeg = fs::read(data().join("colour.jpg")).unwrap();
    assert_eq!(crc(&png[12..29]).to_be_bytes(), png[29..33]);
    assert!(Picture::decode("same", &header(41, 29)).is_ok());
    for length in 0..png.len() - 12 {
        let error = Picture::decode("cut.png", &png[..length]).unwrap_err();
        assert!(error.to_string().starts_with("cut.png: "), "{error}");
    }
    // Whatever a damaged JPEG gives, it gives it without a panic.
    for length in 0..jpeg.len() {
        let _ = Picture::decode("cut.jpg", &jpeg[..length]);
    }
    assert!(Picture::decode("cut.jpg", &jpeg[..100]).is_err());
    for (width, height) in [
        (0, 0),
        (0, 5),
        (u32::MAX, 1),
        (1, u32::MAX),
        (0x7fff_ffff, 0x7fff_ffff),
        (65536, 65536),
        (65537, 1),
        (60000, 60000),
    ] {
        let error = Picture::decode("absurd.png", &header(width, height));
        println!(
            "{:?}",
            error.as_ref().map(|_| ()).map_err(ToString::to_string)
        );
        assert!(error.is_err(), "{width} × {height}");
    }
    // A large claim with a small content: refused for the content, not after filling memory.
    assert!(Picture::decode("hollow.png", &header(16000, 16000)).is_err());
    for bytes in [
        &b"GIF89a\x01\x00\x01\x00"[..],
        b"",
        b"RIFF\0\0\0\0WEBP",
        b"<svg/>",
    ] {
        assert!(Picture::decode("other", bytes).is_err());
    }
}
