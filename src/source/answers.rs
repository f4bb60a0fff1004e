//! The parsers of what strangers' servers and checkouts say of files, by kind, for those who test them with
//! hostile bytes: each is otherwise reached over a network alone.

use super::{buckets, lfs, modelscope, registry};

/// A kind of answer, and whether its parser accepts bytes as one.
pub type Answer = (&'static str, fn(&[u8]) -> bool);

/// Every kind, by the name of its input in the committed corpus.
pub const ANSWERS: &[Answer] = &[
    ("pointer", |bytes| {
        lfs::pointer(bytes).is_some_and(|pointer| pointer.is_ok())
    }),
    ("git-config", |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| lfs::server(text).is_ok())
    }),
    ("manifest", |bytes| registry::files_of(bytes).is_ok()),
    ("modelscope", |bytes| {
        modelscope::entries_of(bytes)
            .and_then(modelscope::files_of)
            .is_ok()
    }),
    ("s3", |bytes| buckets::list::s3(bytes).is_ok()),
    ("azure", |bytes| buckets::list::azure(bytes).is_ok()),
];
