//! Requests and answers of the S3 door over a model volume.

mod acl;
mod ask;
mod buckets;
mod copy;
mod frame;
mod get;
mod listing;
mod log;
mod multipart;
mod object;
mod post;
mod settings;
mod times;
