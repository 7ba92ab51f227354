//! Requests of the AWS Query protocol: form-encoded parameters with dotted names, and the SigV4 header.

use std::collections::BTreeMap;

use super::error::{ApiError, Outcome};

/// One request, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The operation's name.
    pub operation: String,
    /// Its parameters as they stood on the wire, `Action` and `Version` left out.
    pub parameters: BTreeMap<String, String>,
}

/// The parameters of an operation, read by name.
pub(crate) type Params<'a> = &'a Request;

impl Request {
    /// Decodes a form body.
    pub(crate) fn decode(body: &str) -> Outcome<Self> {
        let mut parameters = BTreeMap::new();
        for pair in body.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.insert(percent_decode(name)?, percent_decode(value)?);
        }
        let Some(operation) = parameters.remove("Action") else {
            return Err(ApiError::new("MissingAction", "The request names no Action."));
        };
        match parameters.remove("Version").as_deref() {
            Some("2015-02-02") => Ok(Self { operation, parameters }),
            version => Err(ApiError::new(
                "InvalidAction",
                format!(
                    "Could not find operation {operation} for version {}",
                    version.unwrap_or("NO_VERSION_SPECIFIED")
                ),
            )),
        }
    }

    /// Refuses parameters this endpoint does not know what to do with.
    pub(crate) fn only(&self, known: &[&str]) -> Outcome<()> {
        for name in self.parameters.keys() {
            let top = name.split('.').next().unwrap_or(name);
            if !known.contains(&top) {
                return Err(ApiError::value(format!(
                    "The sandbox does not support the parameter {top} of {}.",
                    self.operation
                )));
            }
        }
        Ok(())
    }

    /// Whether a parameter, or anything below it, was sent.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.parameters.keys().any(|key| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// A text; one sent empty counts as absent, as the API treats it.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.parameters
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// A text that must be there.
    pub(crate) fn need(&self, name: &str) -> Outcome<&str> {
        self.text(name).ok_or_else(|| {
            ApiError::new(
                "MissingParameter",
                format!("The request must contain the parameter {name}."),
            )
        })
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Outcome<Option<i64>> {
        self.text(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::value(format!("{name} must be an integer: {text}")))
            })
            .transpose()
    }

    /// A count that is not negative.
    pub(crate) fn count(&self, name: &str) -> Outcome<Option<usize>> {
        self.number(name)?
            .map(|number| usize::try_from(number).map_err(|_| ApiError::value(format!("Invalid {name}: {number}"))))
            .transpose()
    }

    /// A port.
    pub(crate) fn port(&self, name: &str) -> Outcome<Option<u16>> {
        self.number(name)?
            .map(|number| match u16::try_from(number) {
                Ok(port) if port >= 1024 => Ok(port),
                _ => Err(ApiError::value(format!(
                    "{name} must be between 1024 and 65535: {number}"
                ))),
            })
            .transpose()
    }

    /// A truth value.
    pub(crate) fn flag(&self, name: &str) -> Outcome<Option<bool>> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(text) => Err(ApiError::value(format!("{name} must be true or false: {text}"))),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str, member: &str) -> Vec<String> {
        (1..)
            .map_while(|n| self.parameters.get(&format!("{name}.{member}.{n}")).cloned())
            .collect()
    }

    /// The prefixes of the elements of a list of structures.
    pub(crate) fn items(&self, name: &str, member: &str) -> Vec<String> {
        (1..)
            .map(|n| format!("{name}.{member}.{n}"))
            .take_while(|prefix| self.has(prefix))
            .collect()
    }

    /// The `Tags` of a request.
    pub(crate) fn tags(&self) -> Outcome<BTreeMap<String, String>> {
        let mut tags = BTreeMap::new();
        for prefix in self.items("Tags", "Tag") {
            let key = self.need(&format!("{prefix}.Key"))?;
            if key.len() > 128 || key.starts_with("aws:") {
                return Err(ApiError::value(format!("Invalid tag key: {key}")));
            }
            let value = self.text(&format!("{prefix}.Value")).unwrap_or_default();
            if value.len() > 256 {
                return Err(ApiError::value(format!("The value of the tag {key} is too long.")));
            }
            if tags.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(ApiError::value(format!("The tag key {key} occurs twice.")));
            }
        }
        if tags.len() > 50 {
            return Err(ApiError::new(
                "TagQuotaPerResourceExceeded",
                "A resource can have 50 tags.",
            ));
        }
        Ok(tags)
    }
}

fn percent_decode(text: &str) -> Outcome<String> {
    let malformed = || ApiError::new("MalformedQueryString", "The request body is not form-encoded UTF-8.");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().ok_or_else(malformed)?, rest.next().ok_or_else(malformed)?];
                let digits = std::str::from_utf8(&digits).map_err(|_| malformed())?;
                u8::from_str_radix(digits, 16).map_err(|_| malformed())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// Checks that a request carries a well-formed SigV4 header for this service and region (General Reference,
/// "Signature Version 4"). The signature itself is not computed: the endpoint knows no secret keys.
pub(crate) fn check_signature(authorization: Option<&str>, date: Option<&str>, region: &str) -> Outcome<()> {
    let Some(header) = authorization else {
        return Err(ApiError::new(
            "MissingAuthenticationToken",
            "Request is missing Authentication Token",
        ));
    };
    let incomplete = |what: &str| ApiError::new("IncompleteSignature", format!("Authorization header: {what}"));
    let Some(parts) = header.strip_prefix("AWS4-HMAC-SHA256 ") else {
        return Err(incomplete("the algorithm must be AWS4-HMAC-SHA256"));
    };
    let part = |name: &str| {
        parts
            .split(',')
            .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
            .ok_or_else(|| incomplete(&format!("{name} is missing")))
    };
    let (credential, signed, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    if signature.len() != 64 || !signature.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(incomplete("Signature must be 64 hexadecimal digits"));
    }
    if !signed.split(';').any(|name| name == "host") {
        return Err(incomplete("the host header must be signed"));
    }
    let Some(date) = date else {
        return Err(incomplete("the header X-Amz-Date is missing"));
    };
    let scope: Vec<&str> = credential.rsplitn(5, '/').collect();
    match scope.as_slice() {
        ["aws4_request", "elasticache", scope_region, day, key] if !key.is_empty() => {
            if *scope_region != region {
                return Err(ApiError::new(
                    "SignatureDoesNotMatch",
                    format!("Credential should be scoped to a valid region, not '{scope_region}'."),
                ));
            }
            if !date.starts_with(day) {
                return Err(ApiError::new(
                    "SignatureDoesNotMatch",
                    format!("Date in Credential scope does not match the request's date: {day}, {date}"),
                ));
            }
            Ok(())
        }
        ["aws4_request", service, ..] => Err(ApiError::new(
            "SignatureDoesNotMatch",
            format!("Credential should be scoped to correct service: 'elasticache', not '{service}'."),
        )),
        _ => Err(incomplete(
            "Credential must be key/date/region/elasticache/aws4_request",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_becomes_names_and_values() {
        let request = Request::decode(
            "Action=CreateCacheCluster&Version=2015-02-02&CacheClusterId=a%2Db+c&SecurityGroupIds.SecurityGroupId.1=sg-1\
             &SecurityGroupIds.SecurityGroupId.2=sg-2&Tags.Tag.1.Key=k&Tags.Tag.1.Value=",
        )
        .unwrap();
        assert_eq!(request.text("CacheClusterId"), Some("a-b c"));
        assert_eq!(request.texts("SecurityGroupIds", "SecurityGroupId"), ["sg-1", "sg-2"]);
        assert_eq!(request.tags().unwrap().get("k").map(String::as_str), Some(""));
        assert!(request.only(&["CacheClusterId", "SecurityGroupIds", "Tags"]).is_ok());
        assert_eq!(
            request.only(&["CacheClusterId"]).unwrap_err().code,
            "InvalidParameterValue"
        );
    }

    #[test]
    fn bad_bodies_are_refused() {
        for (body, code) in [
            ("Version=2015-02-02", "MissingAction"),
            ("Action=X&Version=2014-01-01", "InvalidAction"),
            ("Action=X", "InvalidAction"),
            ("Action=%zz", "MalformedQueryString"),
        ] {
            assert_eq!(Request::decode(body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn a_request_must_be_signed_for_this_service_and_region() {
        let signature = "a".repeat(64);
        let header = |scope: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=content-type;host;x-amz-date, Signature={signature}"
            )
        };
        let date = Some("20260101T000000Z");
        let check = |scope: &str| check_signature(Some(&header(scope)), date, "us-west-2");
        assert!(check("AKID/20260101/us-west-2/elasticache/aws4_request").is_ok());
        for (scope, code) in [
            (
                "AKID/20260101/us-east-1/elasticache/aws4_request",
                "SignatureDoesNotMatch",
            ),
            ("AKID/20260101/us-west-2/s3/aws4_request", "SignatureDoesNotMatch"),
            (
                "AKID/20250101/us-west-2/elasticache/aws4_request",
                "SignatureDoesNotMatch",
            ),
            ("AKID", "IncompleteSignature"),
        ] {
            assert_eq!(check(scope).unwrap_err().code, code, "{scope}");
        }
        assert_eq!(
            check_signature(None, date, "us-west-2").unwrap_err().code,
            "MissingAuthenticationToken"
        );
        assert_eq!(
            check_signature(Some("Basic x"), date, "us-west-2").unwrap_err().code,
            "IncompleteSignature"
        );
    }
}
