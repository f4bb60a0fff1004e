//! The parsers of what strangers' servers and checkouts say of files, by kind, for those who test them with
//! hostile bytes: each is otherwise reached over a network alone.

use super::{buckets, lfs, modelscope, registry};

/// A kind of answer, and whether its parser accepts bytes as one.
pub type Answer = (&'static str, fn(&[u8]) -> bool);

/// Every kind.
pub const ANSWERS: &[Answer] = &[
    ("git-lfs-pointer", |bytes| {
        lfs::pointer(bytes).is_some_and(|pointer| pointer.is_ok())
    }),
    ("git-configuration", |bytes| {
        std::str::from_utf8(bytes).is_ok_and(|text| lfs::server(text).is_ok())
    }),
    ("image-manifest", |bytes| registry::files_of(bytes).is_ok()),
    ("modelscope-list", |bytes| {
        modelscope::entries_of(bytes)
            .and_then(modelscope::files_of)
            .is_ok()
    }),
    ("s3-list", |bytes| buckets::list::s3(bytes).is_ok()),
    ("azure-list", |bytes| buckets::list::azure(bytes).is_ok()),
];
