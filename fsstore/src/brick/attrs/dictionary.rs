//! Strings that records have so often that a number stands for them.
//!
//! The numbers are on disk: entries are only ever added at the end.

/// Names of kept headers.
pub(super) const HEADER_NAMES: &[&str] = &[
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
];

/// Values of kept headers.
pub(super) const HEADER_VALUES: &[&str] = &[
    "binary/octet-stream",
    "application/octet-stream",
    "text/plain",
    "application/json",
    "text/html",
    "text/css",
    "text/csv",
    "text/xml",
    "text/javascript",
    "application/javascript",
    "application/xml",
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/x-www-form-urlencoded",
    "application/x-directory",
    "application/vnd.apache.parquet",
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/svg+xml",
    "image/tiff",
    "image/avif",
    "audio/mpeg",
    "audio/ogg",
    "video/mp4",
    "video/webm",
    "text/plain; charset=utf-8",
    "text/html; charset=utf-8",
    "application/json; charset=utf-8",
    "gzip",
    "aws-chunked",
    "no-cache",
    "no-store",
    "max-age=0",
    "max-age=3600",
    "max-age=86400",
    "max-age=31536000",
    "public, max-age=31536000, immutable",
    "inline",
    "attachment",
    "STANDARD",
];

/// Names of user metadata that common clients set (rclone, s3cmd, s3fs).
pub(super) const USER_NAMES: &[&str] = &[
    "mtime",
    "md5chksum",
    "s3cmd-attrs",
    "uid",
    "gid",
    "mode",
    "atime",
    "ctime",
    "btime",
];

/// Values of user metadata, and names and values of tags: none is common enough.
pub(super) const NOTHING: &[&str] = &[];
