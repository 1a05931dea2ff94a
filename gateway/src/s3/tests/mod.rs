//! Requests and answers of the S3 door over a model volume.

mod acl;
mod buckets;
mod frame;
mod listing;
mod settings;
