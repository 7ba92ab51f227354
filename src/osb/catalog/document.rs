//! A document as it goes over the wire: bytes that are made once, plain and compressed, each with an entity tag of its
//! own (RFC 9110, 8.8.3: what differs in its bytes differs in its strong tag).

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::digest::sha256_hex;

/// One form of a document.
#[derive(Clone, Debug)]
pub struct Representation {
    /// The body.
    pub body: Bytes,
    /// Its entity tag.
    pub etag: HeaderValue,
    /// How it is encoded, if it is.
    pub encoding: Option<HeaderValue>,
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// As it is.
    pub plain: Representation,
    /// Compressed; absent where that saves nothing.
    gzip: Option<Representation>,
}

impl Document {
    /// The document of a value.
    pub(super) fn of(value: &Value) -> Self {
        let body = value.to_string().into_bytes();
        let hash = sha256_hex(&body, 16);
        let etag = |suffix: &str| {
            HeaderValue::from_str(&format!("\"{hash}{suffix}\"")).unwrap_or(HeaderValue::from_static("\"\""))
        };
        let gzip = compressed(&body).filter(|smaller| smaller.len() < body.len());
        Self {
            plain: Representation {
                body: Bytes::from(body),
                etag: etag(""),
                encoding: None,
            },
            gzip: gzip.map(|body| Representation {
                body: Bytes::from(body),
                etag: etag("-gzip"),
                encoding: Some(HeaderValue::from_static("gzip")),
            }),
        }
    }

    /// The form for whoever sends these headers.
    pub fn accepted(&self, headers: &HeaderMap) -> &Representation {
        match &self.gzip {
            Some(gzip) if takes_gzip(headers) => gzip,
            _ => &self.plain,
        }
    }
}

fn compressed(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// Whether `Accept-Encoding` has gzip (RFC 9110, 12.5.3). A header that is missing or garbled asks for the plain form,
/// which every client reads.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for value in headers.get_all(ACCEPT_ENCODING) {
        for element in value.to_str().unwrap_or_default().split(',') {
            let mut parts = element.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let quality = parts
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
                .map_or(Some(1.0), |(_, quality)| quality.trim().parse::<f32>().ok());
            let wanted = quality.is_some_and(|quality| quality > 0.0);
            if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
                return wanted;
            }
            any |= coding == "*" && wanted;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::json;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn who_takes_gzip_gets_it() {
        for (values, gzip) in [
            (&[][..], false),
            (&[""], false),
            (&["identity"], false),
            (&["gzip"], true),
            (&["GZIP;q=0.1"], true),
            (&["deflate, gzip;q=1.0, *;q=0.5"], true),
            (&["deflate", "gzip"], true),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.000, *"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=nonsense"], false),
            (&["br, zstd"], false),
        ] {
            assert_eq!(takes_gzip(&headers(values)), gzip, "{values:?}");
        }
    }

    #[test]
    fn the_forms_say_the_same_and_have_tags_of_their_own() {
        let value = json!({ "services": "x".repeat(1000) });
        let document = Document::of(&value);
        let gzip = document.accepted(&headers(&["gzip"]));
        assert_eq!(gzip.encoding.as_ref().unwrap(), "gzip");
        assert!(gzip.body.len() < document.plain.body.len());
        assert_ne!(gzip.etag, document.plain.etag);
        let mut read = Vec::new();
        GzDecoder::new(&*gzip.body).read_to_end(&mut read).unwrap();
        assert_eq!(read, document.plain.body);
        assert_eq!(serde_json::from_slice::<Value>(&read).unwrap(), value);
    }

    #[test]
    fn what_grows_is_not_compressed() {
        let document = Document::of(&json!({}));
        assert_eq!(document.accepted(&headers(&["gzip"])).encoding, None);
    }
}
