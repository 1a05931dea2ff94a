//! Cross-origin requests of browsers: a bucket's rules, preflights, and the headers of answers.
//!
//! Source: S3 API, PutBucketCors; S3 User Guide, "Using cross-origin resource sharing (CORS)";
//! the Fetch standard, section 3.2.

use fsstore::volume::{BucketInfo, Volume};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::ctx::{Call, Ctx, RequestBody};
use super::respond::{self, Body};
use super::xml::{self, Element, XmlWriter, malformed};
use crate::auth::grant::{Grant, Manage};
use crate::errors::{S3Code, S3Error};

/// Name of the bucket setting: the rules as JSON.
pub const SETTING: &str = "cors";
/// Most rules of a bucket.
pub const MAX_RULES: usize = 100;
/// Longest document, in bytes.
const MAX_DOCUMENT_LEN_BYTES: u64 = 64 << 10;
/// Methods that a rule may allow.
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];
/// What an answer depends on.
const VARY: HeaderValue = HeaderValue::from_static(
    "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
);

/// A rule: who may do what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    origins: Vec<String>,
    methods: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    expose: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age_secs: Option<u32>,
}

/// GetBucketCors. Errors: NoSuchCORSConfiguration.
pub fn get_bucket_cors(
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let Some(rules) = rules_of(bucket) else {
        let error = S3Error::from(S3Code::NoSuchCORSConfiguration);
        return Err(error.field("BucketName", bucket.name.as_str()));
    };
    let mut xml = XmlWriter::root("CORSConfiguration");
    for rule in &rules {
        xml.open("CORSRule");
        if let Some(id) = &rule.id {
            xml.text("ID", id);
        }
        for (name, texts) in [
            ("AllowedOrigin", &rule.origins),
            ("AllowedMethod", &rule.methods),
            ("AllowedHeader", &rule.headers),
            ("ExposeHeader", &rule.expose),
        ] {
            for text in texts {
                xml.text(name, text);
            }
        }
        if let Some(secs) = rule.max_age_secs {
            xml.number("MaxAgeSeconds", u64::from(secs));
        }
        xml.close("CORSRule");
    }
    xml.close("CORSConfiguration");
    Ok(respond::xml(xml))
}

/// PutBucketCors: 200. Durable. Errors: MalformedXML, InvalidRequest.
pub async fn put_bucket_cors<V: Volume, B: RequestBody>(
    ctx: &Ctx<V>,
    call: &Call,
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
    body: B,
) -> Result<Response<Body>, S3Error> {
    let rules = parse(&call.read_document(body, MAX_DOCUMENT_LEN_BYTES).await?)?;
    let text = serde_json::to_string(&rules)
        .map_err(|error| S3Error::from(S3Code::InternalError).cause(error))?;
    ctx.volume
        .set_bucket_setting(&bucket.name, SETTING, Some(text))
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

/// DeleteBucketCors: 204. Durable.
pub async fn delete_bucket_cors<V: Volume>(
    ctx: &Ctx<V>,
    _grant: Grant<Manage>,
    bucket: &BucketInfo,
) -> Result<Response<Body>, S3Error> {
    let volume = &ctx.volume;
    volume
        .set_bucket_setting(&bucket.name, SETTING, None)
        .await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// The answer to `OPTIONS`. Errors: BadRequest where it is no preflight, AccessForbidden.
pub fn preflight(call: &Call, bucket: &BucketInfo) -> Result<Response<Body>, S3Error> {
    let headers = call.headers();
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Err(
            S3Code::BadRequest.with("Insufficient information. Origin request header needed.")
        );
    };
    let Some(method) = call.header("access-control-request-method") else {
        return Err(S3Code::BadRequest.with("Invalid Access-Control-Request-Method: null"));
    };
    let asked = call
        .header("access-control-request-headers")
        .unwrap_or_default();
    let asked: Vec<&str> = asked
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    let Some(rules) = rules_of(bucket) else {
        return Err(forbidden(
            "CORSResponse: CORS is not enabled for this bucket.",
            method,
        ));
    };
    let origin_text = origin.to_str().unwrap_or_default();
    let Some(rule) = find(&rules, origin_text, method, &asked) else {
        return Err(forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution \
             of Origin, request method / Access-Control-Request-Method or \
             Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.",
            method,
        ));
    };
    let mut response = respond::empty(StatusCode::OK);
    allow(response.headers_mut(), rule, origin);
    if !asked.is_empty() {
        let names = asked.join(", ").to_ascii_lowercase();
        put(
            response.headers_mut(),
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            &names,
        );
    }
    Ok(response)
}

fn forbidden(message: &'static str, method: &str) -> S3Error {
    S3Code::AccessForbidden
        .with(message)
        .field("Method", method)
        .field("ResourceType", "BUCKET")
}

/// Puts the CORS headers on an answer to a request that names an origin, where a rule of the
/// bucket allows it. `asked` is the method the browser says it means, where it says one.
pub fn mark(headers: &mut HeaderMap, asked: &Method, origin: &HeaderValue, bucket: &BucketInfo) {
    if headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let Some(rules) = rules_of(bucket) else {
        return;
    };
    if let Some(rule) = find(
        &rules,
        origin.to_str().unwrap_or_default(),
        asked.as_str(),
        &[],
    ) {
        allow(headers, rule, origin);
    }
}

fn allow(headers: &mut HeaderMap, rule: &Rule, origin: &HeaderValue) {
    if rule.origins.iter().any(|allowed| allowed == "*") {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("*"),
        );
    } else {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    put(
        headers,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        &rule.methods.join(", "),
    );
    if !rule.expose.is_empty() {
        put(
            headers,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            &rule.expose.join(", "),
        );
    }
    if let Some(secs) = rule.max_age_secs {
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(secs));
    }
    headers.insert(header::VARY, VARY);
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// The rules of a bucket; none where there are none, or they cannot be read.
fn rules_of(bucket: &BucketInfo) -> Option<Vec<Rule>> {
    serde_json::from_str(bucket.settings.get(SETTING)?).ok()
}

/// The first rule that allows an origin, a method and all headers asked for.
fn find<'a>(rules: &'a [Rule], origin: &str, method: &str, headers: &[&str]) -> Option<&'a Rule> {
    rules.iter().find(|rule| {
        rule.origins.iter().any(|pattern| fits(pattern, origin))
            && rule.methods.iter().any(|allowed| allowed == method)
            && headers.iter().all(|name| {
                let name = name.to_ascii_lowercase();
                let mut allowed = rule.headers.iter();
                allowed.any(|pattern| fits(&pattern.to_ascii_lowercase(), &name))
            })
    })
}

/// Whether a text fits a pattern with at most one `*`, which stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

fn parse(document: &[u8]) -> Result<Vec<Rule>, S3Error> {
    let root = xml::parse(document, "CORSConfiguration")?;
    root.allow_only(&["CORSRule"])?;
    if root.children.is_empty() || root.children.len() > MAX_RULES {
        return Err(malformed());
    }
    root.children.iter().map(parse_rule).collect()
}

fn parse_rule(element: &Element) -> Result<Rule, S3Error> {
    element.allow_only(&[
        "ID",
        "AllowedOrigin",
        "AllowedMethod",
        "AllowedHeader",
        "ExposeHeader",
        "MaxAgeSeconds",
    ])?;
    let all = |name: &str| -> Vec<String> {
        let found = element.children.iter().filter(|child| child.name == name);
        found.map(|child| child.text.clone()).collect()
    };
    let max_age_secs = match element.text_of("MaxAgeSeconds")? {
        Some(text) => Some(text.trim().parse().map_err(|_| malformed())?),
        None => None,
    };
    let rule = Rule {
        id: element.text_of("ID")?.map(str::to_owned),
        origins: all("AllowedOrigin"),
        methods: all("AllowedMethod"),
        headers: all("AllowedHeader"),
        expose: all("ExposeHeader"),
        max_age_secs,
    };
    check(&rule)?;
    Ok(rule)
}

fn check(rule: &Rule) -> Result<(), S3Error> {
    if rule.origins.is_empty() || rule.methods.is_empty() {
        return Err(malformed());
    }
    if rule.id.as_ref().is_some_and(|id| id.chars().count() > 255) {
        return Err(S3Code::InvalidRequest.with("The ID of a rule has at most 255 characters."));
    }
    if let Some(method) = rule
        .methods
        .iter()
        .find(|method| !METHODS.contains(&method.as_str()))
    {
        return Err(S3Code::InvalidRequest.with(format!(
            "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
        )));
    }
    let has_two = |text: &&String| text.matches('*').count() > 1;
    if let Some(origin) = rule.origins.iter().find(has_two) {
        return Err(S3Code::InvalidRequest.with(format!(
            "AllowedOrigin \"{origin}\" can not have more than one wildcard."
        )));
    }
    if let Some(name) = rule.headers.iter().find(has_two) {
        return Err(S3Code::InvalidRequest.with(format!(
            "AllowedHeader \"{name}\" can not have more than one wildcard."
        )));
    }
    if let Some(name) = rule
        .expose
        .iter()
        .find(|name| HeaderName::from_bytes(name.as_bytes()).is_err() || name.contains('*'))
    {
        return Err(S3Code::InvalidRequest.with(format!(
            "ExposeHeader \"{name}\" contains wildcard. We currently do not support wildcard for \
             ExposeHeader."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Rule, find, fits, parse};
    use crate::errors::S3Code;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Rule {
            id: None,
            origins: owned(origins),
            methods: owned(methods),
            headers: owned(headers),
            expose: Vec::new(),
            max_age_secs: None,
        }
    }

    #[test]
    fn a_wildcard_stands_for_any_text_and_the_ends_do_not_overlap() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*suffix", "foo.suffix", true),
            ("*suffix", "foo.suffix.get", false),
            ("start*end", "startend", true),
            ("start*end", "start12end", true),
            ("start*end", "0startend", false),
            ("aba*ba", "aba", false),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_rule_must_allow_the_origin_the_method_and_every_header() {
        let rules = [
            rule(&["https://a"], &["GET"], &[]),
            rule(&["https://a"], &["PUT"], &["x-amz-*", "Content-Type"]),
        ];
        assert!(find(&rules, "https://a", "GET", &[]).is_some());
        assert!(find(&rules, "https://a", "GET", &["content-type"]).is_none());
        assert!(find(&rules, "https://a", "PUT", &["content-type", "X-Amz-Date"]).is_some());
        assert!(find(&rules, "https://a", "PUT", &["content-type", "y"]).is_none());
        assert!(find(&rules, "https://b", "GET", &[]).is_none());
    }

    #[test]
    fn bad_rules_are_refused_by_name() {
        let one = |inner: &str| {
            let text =
                format!("<CORSConfiguration><CORSRule>{inner}</CORSRule></CORSConfiguration>");
            parse(text.as_bytes()).map_err(|error| error.code())
        };
        let origin = "<AllowedOrigin>*</AllowedOrigin>";
        let get = "<AllowedMethod>GET</AllowedMethod>";
        assert!(one(&format!("{origin}{get}<MaxAgeSeconds>3</MaxAgeSeconds>")).is_ok());
        assert_eq!(one(origin), Err(S3Code::MalformedXML));
        assert_eq!(
            one(&format!("{origin}{get}<X/>")),
            Err(S3Code::MalformedXML)
        );
        for bad in [
            format!("{origin}<AllowedMethod>PATCH</AllowedMethod>"),
            format!("<AllowedOrigin>*a*</AllowedOrigin>{get}"),
            format!("{origin}{get}<AllowedHeader>*x*</AllowedHeader>"),
            format!("{origin}{get}<ExposeHeader>x-*</ExposeHeader>"),
        ] {
            assert_eq!(one(&bad), Err(S3Code::InvalidRequest), "{bad}");
        }
        let rule = format!("<CORSRule>{origin}{get}</CORSRule>");
        let many = format!(
            "<CORSConfiguration>{}</CORSConfiguration>",
            rule.repeat(101)
        );
        assert!(parse(many.as_bytes()).is_err());
    }
}
