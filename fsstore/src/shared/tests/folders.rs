//! Pages of folders.

use super::gateways::{Site, bucket, put};
use crate::volume::{ListQuery, Volume};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_folders_does_not_read_the_bucket_for_each() {
    let site = Site::new().await;
    let on = site.gateway().await;
    for number in 0..40 {
        put(&on, &format!("made-{number:02}/"), b"").await;
        // The first key that may be in it is none: a directory is there.
        put(&on, &format!("nested-{number:02}/x/y"), b"").await;
    }
    std::fs::create_dir_all(site.path("bucket/nothing/in/it")).unwrap();
    let query = ListQuery {
        delimiter: Some("/".to_owned()),
        limit: 1_000,
        ..ListQuery::default()
    };
    let before = on.inner.tree.disk.interrupts.count("read dir");
    let page = on.list(&bucket(), &query).await.unwrap();
    let reads = on.inner.tree.disk.interrupts.count("read dir") - before;
    let made = (0..40).map(|n| format!("made-{n:02}/"));
    let nested = (0..40).map(|n| format!("nested-{n:02}/"));
    assert_eq!(page.prefixes, made.chain(nested).collect::<Vec<_>>());
    // The page's own walk enters each directory and looks for escaped keys then; what is nested is
    // entered once more, and the directory below it.
    assert!(
        reads <= 1 + 80 + 80 + 80 + 20,
        "{reads} directories were read"
    );

    // What the prefix leaves out is not entered.
    let query = ListQuery {
        prefix: "made-0".to_owned(),
        ..query
    };
    let before = on.inner.tree.disk.interrupts.count("read dir");
    assert_eq!(on.list(&bucket(), &query).await.unwrap().prefixes.len(), 10);
    let reads = on.inner.tree.disk.interrupts.count("read dir") - before;
    assert!(reads <= 4 + 2 * 10, "{reads} directories were read");
}
