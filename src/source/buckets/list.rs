//! Lists of objects as the stores write them: S3's (ListObjectsV2, which Google's store writes as well)
//! and Azure's (List Blobs).
//!
//! Parsed by `quick-xml`, which expands no entities but XML's own five, from an answer of bounded length.

use serde::Deserialize;

/// A part of a list.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::source) struct Page {
    pub(super) objects: Vec<Object>,
    /// What to ask with for the next part, if there is one.
    pub(super) next: Option<String>,
}

/// One object of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) key: String,
    pub(super) size_bytes: u64,
    /// The etag in its quotes, as answers carry it.
    pub(super) etag: String,
}

#[derive(Deserialize)]
struct S3List {
    // Required, so that no other document is taken for an empty list.
    #[serde(rename = "IsTruncated")]
    is_truncated: bool,
    #[serde(rename = "NextContinuationToken")]
    next: Option<String>,
    #[serde(rename = "Contents", default)]
    contents: Vec<S3Object>,
}

#[derive(Deserialize)]
struct S3Object {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "ETag")]
    etag: String,
}

#[derive(Deserialize)]
struct AzureList {
    #[serde(rename = "Blobs")]
    blobs: AzureBlobs,
    #[serde(rename = "NextMarker")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct AzureBlobs {
    #[serde(rename = "Blob", default)]
    blobs: Vec<AzureBlob>,
}

#[derive(Deserialize)]
struct AzureBlob {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Properties")]
    properties: AzureProperties,
}

#[derive(Deserialize)]
struct AzureProperties {
    #[serde(rename = "Content-Length")]
    size: u64,
    #[serde(rename = "Etag")]
    etag: String,
}

/// An etag in its quotes; Azure's lists leave them out.
fn quoted(etag: &str) -> String {
    match etag.contains('"') {
        true => etag.to_owned(),
        false => format!("\"{etag}\""),
    }
}

fn text(body: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// A part of S3's list; an error in words.
pub(in crate::source) fn s3(body: &[u8]) -> Result<Page, String> {
    let list: S3List = quick_xml::de::from_str(text(body)?).map_err(|e| e.to_string())?;
    let next = list.next.filter(|next| !next.is_empty());
    if list.is_truncated && next.is_none() {
        return Err("a list that is cut off and does not say how it goes on".to_owned());
    }
    let objects = list.contents.into_iter().map(|object| Object {
        key: object.key,
        size_bytes: object.size,
        etag: quoted(&object.etag),
    });
    Ok(Page {
        objects: objects.collect(),
        next: next.filter(|_| list.is_truncated),
    })
}

/// A part of Azure's list; an error in words.
pub(in crate::source) fn azure(body: &[u8]) -> Result<Page, String> {
    let list: AzureList = quick_xml::de::from_str(text(body)?).map_err(|e| e.to_string())?;
    let objects = list.blobs.blobs.into_iter().map(|blob| Object {
        key: blob.name,
        size_bytes: blob.properties.size,
        etag: quoted(&blob.properties.etag),
    });
    Ok(Page {
        objects: objects.collect(),
        next: list.next.filter(|next| !next.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, size_bytes: u64, etag: &str) -> Object {
        Object {
            key: key.to_owned(),
            size_bytes,
            etag: etag.to_owned(),
        }
    }

    /// The examples of the API references, shortened.
    const S3_LIST: &[u8] = br#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix/>
<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>
<KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated>
<Contents><Key>a &amp; b.json</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>
<ETag>"70ee1738b6b21e2c8a43f3a5ab0eee71"</ETag><Size>11</Size><StorageClass>STANDARD</StorageClass>
</Contents><Contents><Key>m.gguf</Key><ETag>&quot;x-2&quot;</ETag><Size>434234</Size></Contents>
</ListBucketResult>"#;
    const AZURE_LIST: &str = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>
<EnumerationResults ServiceEndpoint=\"https://a.blob.core.windows.net/\" ContainerName=\"c\">
<Prefix>p</Prefix><Blobs><Blob><Name>p/m.gguf</Name><Properties>
<Creation-Time>Mon, 01 Jan 2024 00:00:00 GMT</Creation-Time><Etag>0x8CBFF45D8A29A19</Etag>
<Content-Length>100</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob></Blobs>
<NextMarker /></EnumerationResults>";

    #[test]
    fn lists_are_read_as_the_stores_document_them() {
        assert_eq!(
            s3(S3_LIST).unwrap(),
            Page {
                objects: vec![
                    object("a & b.json", 11, "\"70ee1738b6b21e2c8a43f3a5ab0eee71\""),
                    object("m.gguf", 434_234, "\"x-2\""),
                ],
                next: Some("1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=".to_owned()),
            }
        );
        assert_eq!(
            azure(AZURE_LIST.as_bytes()).unwrap(),
            Page {
                objects: vec![object("p/m.gguf", 100, "\"0x8CBFF45D8A29A19\"")],
                next: None,
            }
        );
        let none = b"<EnumerationResults><Blobs /><NextMarker>n</NextMarker></EnumerationResults>";
        let page = azure(none).unwrap();
        assert_eq!((page.objects.len(), page.next.as_deref()), (0, Some("n")));
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for text in [
            "",
            "<html><body>no</body></html>",
            "<Error><Code>AccessDenied</Code></Error>",
            "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>",
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><ETag>e</ETag><Size>-1</Size></Contents></ListBucketResult>",
            "<!DOCTYPE x [<!ENTITY a \"b\">]><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>&a;</Key><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>",
        ] {
            assert!(s3(text.as_bytes()).is_err(), "{text}");
            assert!(azure(text.as_bytes()).is_err(), "{text}");
        }
        assert!(s3(&[0xff, 0xfe]).is_err());
        let deep = "<a>".repeat(1_000_000);
        assert!(s3(deep.as_bytes()).is_err() && azure(deep.as_bytes()).is_err());
    }
    #[test]
    fn no_change_of_a_list_makes_a_parser_panic_or_invents_an_object() {
        for (list, is_s3) in [(S3_LIST, true), (AZURE_LIST.as_bytes(), false)] {
            let read = |bytes: &[u8]| match is_s3 {
                true => s3(bytes),
                false => azure(bytes),
            };
            let n_objects = read(list).unwrap().objects.len();
            for at in 0..list.len() {
                for byte in [b'<', b'>', b'&', b'/', b'"', 0, 0xff] {
                    let mut changed = list.to_vec();
                    changed[at] = byte;
                    if let Ok(page) = read(&changed) {
                        assert!(page.objects.len() <= n_objects);
                    }
                }
                // Cut off before its last mark, a list is none.
                assert!(read(&list[..at]).is_err(), "{at}");
            }
        }
    }
}
