//! Streams and archives made by hand: what is refused, by what words, and that refusing is quick.
//! Files as torch writes them are in `tests/suite/pytorch.rs`.

use super::*;
use crate::source::bytes::MemoryFile;
use crate::tensor::Tensor;
use std::time::{Duration, Instant};

const FIXED: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\
    \x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";

/// A legacy file of one stream, with storage `0` of the given bytes as 32-bit floats.
fn legacy(stream: &[u8], data: &[u8]) -> Vec<u8> {
    let keys: &[u8] = if data.is_empty() {
        b"\x80\x02]."
    } else {
        b"\x80\x02]X\x01\x00\x00\x000a."
    };
    let mut file = [FIXED, stream, keys].concat();
    if !data.is_empty() {
        file.extend_from_slice(&(data.len() as u64 / 4).to_le_bytes());
        file.extend_from_slice(data);
    }
    file
}

fn open_file(bytes: Vec<u8>) -> Result<Checkpoint, CheckpointError> {
    let source = Arc::new(MemoryFile::new("m.pth", bytes));
    super::super::open(&[CheckpointFile {
        path: "m.pth".into(),
        source,
    }])
}

fn error(bytes: Vec<u8>) -> String {
    let error = open_file(bytes).unwrap_err().to_string();
    assert!(error.starts_with("m.pth: "), "{error}");
    error
}

fn text(s: &str) -> Vec<u8> {
    [
        b"X".as_slice(),
        &(s.len() as u32).to_le_bytes(),
        s.as_bytes(),
    ]
    .concat()
}

fn number(n: u64) -> Vec<u8> {
    [b"\x8a\x09".as_slice(), &n.to_le_bytes(), b"\0"].concat()
}

fn numbers(items: &[u64]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|n| number(*n)).collect();
    [b"(".as_slice(), &items, b"t"].concat()
}

/// Pushes storage `0` of `n` elements.
fn storage(class: &str, n: u64) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    let parts = [
        text("storage"),
        class.into(),
        text("0"),
        text("cpu"),
        number(n),
    ];
    [b"(".as_slice(), &parts.concat(), b"tQ"].concat()
}

/// Pushes a tensor on storage `0`, of `n` elements.
fn tensor(class: &str, n: u64, offset: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
        &storage(class, n),
        &number(offset),
        &numbers(shape),
        &numbers(strides),
        b"\x89}tR",
    ]
    .concat()
}

/// `{"w": value}` as a stream.
fn named(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}".as_slice(), &text("w"), value, b"s."].concat()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A zip archive; per entry, what its method and sizes claim to be may be changed.
#[derive(Clone)]
struct Packed {
    name: &'static str,
    data: Vec<u8>,
    flags: u16,
    method: u16,
    size: Option<u32>,
    header: Option<u32>,
    local_name: Option<&'static str>,
}

fn packed(name: &'static str, data: &[u8]) -> Packed {
    Packed {
        name,
        data: data.to_vec(),
        flags: 0,
        method: 0,
        size: None,
        header: None,
        local_name: None,
    }
}

fn archive(entries: &[Packed]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = entry.header.unwrap_or(file.len() as u32);
        let size = entry.size.unwrap_or(entry.data.len() as u32).to_le_bytes();
        let fields = |local: bool, name: &str| {
            let mut fields = vec![20, 0];
            fields.extend(entry.flags.to_le_bytes());
            fields.extend(entry.method.to_le_bytes());
            fields.extend([0; 8]);
            fields.extend([size, size].concat());
            fields.extend((name.len() as u16).to_le_bytes());
            fields.extend([0, 0]);
            if !local {
                fields.extend([0; 10]);
                fields.extend(start.to_le_bytes());
            }
            fields.extend(name.as_bytes());
            fields
        };
        file.extend(b"PK\x03\x04");
        file.extend(fields(true, entry.local_name.unwrap_or(entry.name)));
        file.extend(&entry.data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(fields(false, entry.name));
    }
    let n = (entries.len() as u16).to_le_bytes();
    let (size, start) = (directory.len() as u32, file.len() as u32);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n, n].concat());
    file.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0, 0]);
    file
}

fn sound() -> Vec<Packed> {
    let stream = named(&tensor("FloatStorage", 2, 0, &[2], &[1]));
    vec![
        packed("m/data.pkl", &stream),
        packed("m/byteorder", b"little"),
        packed("m/data/0", &floats(&[1.0, -2.0])),
    ]
}

/// Whether something ends well within the time that a hang would take, on the busiest of machines.
fn soon<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    assert!(
        start.elapsed() < Duration::from_secs(300),
        "{:?}",
        start.elapsed()
    );
    done
}

#[test]
fn sound_files_of_both_formats_are_read() {
    let stream = named(&tensor("FloatStorage", 2, 0, &[2], &[1]));
    let values = |checkpoint: Checkpoint| {
        let w: &Tensor = &checkpoint.tensors[0];
        (w.name().to_owned(), w.read_elements(0..2).unwrap())
    };
    let expected = ("w".to_owned(), vec![1.0, -2.0]);
    let file = legacy(&stream, &floats(&[1.0, -2.0]));
    assert_eq!(values(open_file(file).unwrap()), expected);
    assert_eq!(values(open_file(archive(&sound())).unwrap()), expected);
}

#[test]
fn whatever_would_be_executed_is_refused_by_its_name() {
    let call = |global: &[u8]| [b"\x80\x02".as_slice(), global, b"X\x01\0\0\0x\x85R."].concat();
    let stack = |parts: &[u8]| call(&[b"\x80\x04".as_slice(), parts, b"\x93"].concat());
    // The memo gives out a harmless name under one number and a harmful one under another.
    let memo = b"\x8c\x0bcollections\x94\x8c\x02os\x94\x8c\x06system\x9400h\x01h\x02";
    let cases: &[(Vec<u8>, &str)] = &[
        (call(b"cposix\nsystem\n"), "`posix.system` at byte 2"),
        (call(b"cos\nsystem\n"), "the global `os.system`"),
        (call(b"cbuiltins\neval\n"), "the global `builtins.eval`"),
        (call(b"c__builtin__\nexec\n"), "`__builtin__.exec`"),
        (call(b"cbuiltins\ngetattr\n"), "`builtins.getattr`"),
        (call(b"cfunctools\npartial\n"), "`functools.partial`"),
        (call(b"ctorch\nload\n"), "`torch.load`"),
        (
            call(b"ctorch.storage\n_load_from_bytes\n"),
            "_load_from_bytes`",
        ),
        (call(b"ctorch._utils\n__builtins__\n"), "__builtins__`"),
        (call(b"ctorch\nos.system\n"), "`torch.os.system`"),
        (call(b"cattacker\nModel\n"), "`attacker.Model`"),
        (stack(b"\x8c\x02os\x8c\x06system"), "`os.system`"),
        (stack(memo), "`os.system`"),
        (
            b"\x80\x02(S'x'\nios\nsystem\n.".to_vec(),
            "the opcode INST at byte 8",
        ),
        (b"\x80\x02(cos\nsystem\no.".to_vec(), "`os.system`"),
        (b"\x80\x02(]o.".to_vec(), "the opcode OBJ"),
        (b"\x80\x02\x82\x01.".to_vec(), "the opcode EXT1"),
        (b"\x80\x02\x83\x01\0.".to_vec(), "the opcode EXT2"),
        (b"\x80\x02\x84\x01\0\0\0.".to_vec(), "the opcode EXT4"),
        (b"\x80\x02Pos.system\n.".to_vec(), "the opcode PERSID"),
        (b"\x80\x04])}\x92.".to_vec(), "the opcode NEWOBJ_EX"),
        (b"\x80\x05\x97.".to_vec(), "the opcode NEXT_BUFFER"),
        (b"\x80\x05\x98.".to_vec(), "the opcode READONLY_BUFFER"),
        (b"\x80\x02\xff.".to_vec(), "the unknown opcode 0xff"),
        (
            [b"\x80\x02(".as_slice(), &text("module"), b"]]]tQ."].concat(),
            "the code of a module",
        ),
    ];
    for (stream, words) in cases {
        // As the object of a file of either format, and as a file's very beginning.
        let mut entries = sound();
        entries[0].data.clone_from(stream);
        for bytes in [stream.clone(), legacy(stream, &[]), archive(&entries)] {
            let error = error(bytes);
            let words = words.split(" at byte").next().unwrap();
            assert!(error.contains("the pickle asks for "), "{error}");
            assert!(error.contains(words), "{words}: {error}");
            assert!(error.contains("nothing was executed"), "{error}");
        }
        assert!(error(stream.clone()).contains(words), "{words}");
        let mut entries = sound();
        entries[0].data.clone_from(stream);
        assert!(error(archive(&entries)).contains("of m/data.pkl"));
    }
}

#[test]
fn known_functions_are_not_bent_to_other_uses() {
    let v2 = "ctorch._utils\n_rebuild_tensor_v2\n";
    let from_type = "ctorch._tensor\n_rebuild_from_type_v2\n";
    let sound = tensor("FloatStorage", 2, 0, &[2], &[1]);
    let conjugate = {
        let mut stream = sound[..sound.len() - 2].to_vec();
        stream.extend(b"}X\x04\0\0\0conj\x88stR");
        stream
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (format!("{v2})R").into(), "with 0 arguments"),
        (format!("{v2}]R").into(), "a tuple of arguments"),
        (format!("{v2}(((tR").into(), "a value on the stack"),
        (
            [b"]".as_slice(), b")R"].concat(),
            "a function or type to call",
        ),
        (
            format!("{from_type}({from_type}ctorch\nTensor\n)Nt R").into(),
            "opcode",
        ),
        (
            format!("{from_type}({from_type}ctorch\nTensor\n)NtR").into(),
            "a wrapping in a wrapping",
        ),
        (
            format!("{from_type}({v2}ccollections\nOrderedDict\n)NtR").into(),
            "a tensor type",
        ),
        (
            b"(X\x07\0\0\0storagectorch\nfloat16\nX\x01\0\0\x000NK\x01tQ".to_vec(),
            "storage type",
        ),
        (b"NQ".to_vec(), "the id of a storage"),
        (b"ctorch\nFloatStorage\n)\x81".to_vec(), "a new mapping"),
        ([sound.clone(), b"Nb".to_vec()].concat(), "with attributes"),
        (conjugate, "a conjugate or a negative view"),
        (b"ccollections\nOrderedDict\n]Na\x85R".to_vec(), "pairs"),
        (b"N]a".to_vec(), "a list or set"),
        (b"(NNNu".to_vec(), "a key without one"),
        (b"h\x07".to_vec(), "none of number 7"),
        (b"0".to_vec(), ""),
        (b"\x80\x06".to_vec(), "a protocol"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "a frame"),
        (b"X\xff\xff\xff\xffabc".to_vec(), "bytes until the end"),
        (
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            "bytes until the end",
        ),
        (b"\x8b\xff\xff\xff\x7f".to_vec(), "bytes until the end"),
        (b"X\x01\0\0\0\xff".to_vec(), "UTF-8"),
        (b"Ix\n".to_vec(), "a whole number"),
        (b"g99999999999\n".to_vec(), "a number of the memo"),
    ];
    for (value, words) in cases {
        let error = error(legacy(&named(&value), &floats(&[1.0, 2.0])));
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn tensors_that_leave_their_storage_are_refused_by_name() {
    let huge = 1u64 << 62;
    for (offset, shape, strides) in [
        (0, vec![5], vec![1]),
        (1, vec![4], vec![1]),
        (5, vec![], vec![]),
        (0, vec![2, 2], vec![3, 1]),
        (0, vec![3], vec![2]),
        (0, vec![huge, huge], vec![huge, huge]),
        (u64::MAX, vec![2], vec![1]),
        (0, vec![u64::MAX], vec![1]),
        (0, vec![2], vec![]),
        (0, vec![1; 33], vec![1; 33]),
    ] {
        let stream = named(&tensor("FloatStorage", 4, offset, &shape, &strides));
        let error = error(legacy(&stream, &floats(&[0.0; 4])));
        assert!(error.starts_with("m.pth: w: expected"), "{error}");
    }
}

#[test]
fn a_stride_that_is_never_taken_may_be_any_number() {
    for (shape, strides) in [
        ([2, 1, 1], [2, u64::MAX, u64::MAX]),
        ([1, 2, 1], [u64::MAX, 2, u64::MAX]),
        ([1, 1, 2], [u64::MAX, u64::MAX, 2]),
    ] {
        let stream = named(&tensor("FloatStorage", 3, 0, &shape, &strides));
        let checkpoint = open_file(legacy(&stream, &floats(&[1.0, 2.0, 3.0]))).unwrap();
        let values = checkpoint.tensors[0].read_elements(0..2).unwrap();
        assert_eq!(values, [1.0, 3.0]);
    }
}

#[test]
fn a_few_bytes_do_not_become_a_tensor_that_no_machine_holds() {
    for shape in [vec![1u64 << 33], vec![1 << 30, 1 << 30], vec![1 << 25, 4]] {
        let strides = vec![0; shape.len()];
        let stream = named(&tensor("FloatStorage", 1, 0, &shape, &strides));
        let error = error(legacy(&stream, &floats(&[1.0])));
        assert!(error.contains("w: "), "{error}");
    }
    // What is allowed can be read.
    let stream = named(&tensor("FloatStorage", 1, 0, &[1 << 20], &[0]));
    let checkpoint = open_file(legacy(&stream, &floats(&[3.0]))).unwrap();
    let values = checkpoint.tensors[0].read_elements(0..1 << 20).unwrap();
    assert!(values.iter().all(|v| *v == 3.0));
}

#[test]
fn shared_and_nested_and_circular_values_neither_hang_nor_overflow() {
    let w = [text("w"), tensor("FloatStorage", 1, 0, &[1], &[1])].concat();
    let file = |value: &[u8]| {
        let stream = [b"\x80\x02}".as_slice(), &text("x"), value, b"s", &w, b"s."].concat();
        legacy(&stream, &floats(&[1.0]))
    };
    // Each list holds the last one ten times: 10⁶⁰ values in a few hundred bytes.
    let mut laughs = b"]q\0".to_vec();
    for n in 0..60u8 {
        laughs.extend(b"0](");
        laughs.extend([b'h', n].repeat(10));
        laughs.extend([b'e', b'q', n + 1]);
    }
    let error = soon(|| error(file(&laughs)));
    assert!(error.contains("nested at most"), "{error}");
    for (open, close) in [("]", "a"), ("}K\x01", "s")] {
        let deep = [open.repeat(300_000), "N".into(), close.repeat(300_000)].concat();
        assert!(soon(|| open_file(file(deep.as_bytes()))).is_err());
    }
    let deep = [b"N".to_vec(), b"\x85".repeat(300_000)].concat();
    assert!(soon(|| open_file(file(&deep))).is_err());
    for circle in [b"]q\x01h\x01a".as_slice(), b"}q\x01K\x01h\x01s"] {
        assert!(soon(|| open_file(file(circle))).is_err());
    }
    // One list is made a mapping, and copied, a hundred thousand times.
    let item = b"K\x01K\x02\x86";
    let list = [b"](".as_slice(), &item.repeat(100_000), b"eq\x01"].concat();
    for class in [
        b"ccollections\nOrderedDict\nq\x02".as_slice(),
        b"c__builtin__\nset\nq\x02",
    ] {
        let calls = b"h\x02h\x01\x85R0".repeat(100_000);
        let value = [&list, class, &calls, b"0"].concat();
        assert!(soon(|| open_file(file(&value))).is_ok());
    }
    let marks = soon(|| open_file(file(&b"(".repeat(10 << 20))));
    assert!(marks.unwrap_err().to_string().contains("values"));
}

#[test]
fn storages_have_one_type_and_the_size_that_is_declared() {
    let two = [
        b"\x80\x02}".as_slice(),
        &text("a"),
        &tensor("FloatStorage", 2, 0, &[2], &[1]),
        b"s",
        &text("b"),
        &tensor("IntStorage", 2, 0, &[2], &[1]),
        b"s.",
    ]
    .concat();
    assert!(error(legacy(&two, &[0; 8])).contains("one type and size of storage 0"));
    let three = named(&tensor("FloatStorage", 3, 0, &[2], &[1]));
    assert!(error(legacy(&three, &[0; 8])).contains("expected 3 elements in storage 0, found 2"));
    let mut entries = sound();
    entries[0].data = three;
    assert!(error(archive(&entries)).contains("3 elements in storage 0"));
    let huge = named(&tensor("DoubleStorage", u64::MAX / 4, 0, &[2], &[1]));
    entries[0].data = huge;
    assert!(error(archive(&entries)).contains("in storage 0"));
    let none = sound()[..2].to_vec();
    assert!(error(archive(&none)).contains("no entry m/data/0"));
}

#[test]
fn ambiguous_and_compressed_archives_are_refused() {
    let changed = |change: fn(&mut Vec<Packed>)| {
        let mut entries = sound();
        change(&mut entries);
        error(archive(&entries))
    };
    for (found, words) in [
        (changed(|e| e[2].method = 8), "save the file again"),
        (changed(|e| e[0].method = 8), "compressed by method 8"),
        (changed(|e| e[2].flags = 1), "encrypted"),
        (
            changed(|e| e[2].size = Some(u32::MAX - 1)),
            "data that end before",
        ),
        (changed(|e| e[2].size = Some(u32::MAX)), "a 64-bit size"),
        (
            changed(|e| e[2].header = Some(1 << 30)),
            "entries before the directory",
        ),
        (changed(|e| e[2].header = Some(7)), "a local header"),
        (
            changed(|e| e[2].local_name = Some("m/data/1")),
            "another name",
        ),
        (changed(|e| e.push(e[2].clone())), "one entry of each name"),
        (
            changed(|e| e[0].size = Some(e[0].data.len() as u32 + 1)),
            "do not overlap",
        ),
        (
            changed(|e| e.push(packed("../../etc/cron", b""))),
            "without `..`",
        ),
        (
            changed(|e| e.push(packed("/etc/passwd", b""))),
            "without `..`",
        ),
        (changed(|e| e.push(packed("m\\x", b""))), "backslashes"),
        (changed(|e| e.push(packed("m/\n", b""))), "control"),
        (
            changed(|e| e.push(packed("n/data.pkl", b"N."))),
            "one data.pkl",
        ),
        (
            changed(|e| e.push(packed("m/constants.pkl", b"N."))),
            "a TorchScript program",
        ),
        (
            changed(|e| e[1].data = b"big".to_vec()),
            "byte order little, found big",
        ),
        (changed(|e| e.clear()), "0 of them"),
    ] {
        assert!(found.contains(words), "{words}: {found}");
    }
    // A second archive before, after or around the first.
    let sound = archive(&sound());
    assert!(error([b"PK__", sound.as_slice()].concat()).contains("a directory that ends at"));
    assert!(error([sound.as_slice(), b"x"].concat()).contains("no such record"));
}

#[test]
fn other_files_of_these_names_are_said_to_be_something_else() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(error(tar).contains("a tar archive"));
    assert!(error(b"\x80\x02K\x01.".to_vec()).contains("a pickle of a whole number"));
    assert!(error(Vec::new()).contains("until the end"));
    let big = FIXED.strip_suffix(b"\x88s.").unwrap();
    let big = [big, b"\x89s.\x80\x02N.\x80\x02].".as_slice()].concat();
    assert!(error(big).contains("little-endian"));
    // `.bin` is anybody's ending.
    let file = |name: &str, bytes: &[u8]| CheckpointFile {
        path: name.into(),
        source: Arc::new(MemoryFile::new(name, bytes.to_vec())),
    };
    assert!(!is_weights(&file("vocabulary.bin", b"\x00\x01\x02\x03")));
    assert!(is_weights(&file("head.bin", &archive(&sound()))));
    assert!(is_weights(&file("pytorch_model.bin", b"")));
}
