//! Parts of uploads on their way into one file.

use bytes::Bytes;

use super::gateways::{Site, at, get};
use crate::name::PartNumber;
use crate::object::PartClaim;
use crate::volume::{ComposeOptions, NewUpload, StageOptions, StagedPart, Volume};

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_several_pieces_are_copied_in_order() {
    let site = Site::new().await;
    let on = site.gateway().await;
    let begun = on.begin_upload(&at("k"), NewUpload::default()).await;
    let id = begun.unwrap().id;
    let (mut whole, mut claims) = (Vec::new(), Vec::new());
    for (number, len) in [(1, 33 << 20), (2, 5 << 20), (3, 17 << 20), (4, 1)] {
        let bytes: Vec<u8> = (0..len as u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ number as u8)
            .collect();
        let number = PartNumber::new(number).unwrap();
        let object = at("k");
        let part = on.stage_part(&object, &id, number, StageOptions::default());
        let mut part = part.await.unwrap();
        part.write(Bytes::from(bytes.clone())).await.unwrap();
        let info = part.commit(Vec::new(), None).await.unwrap();
        claims.push(PartClaim {
            number,
            etag: info.etag.as_str().to_owned(),
            checksum: None,
        });
        whole.extend(bytes);
    }
    let made = on
        .compose(&at("k"), &id, &claims, ComposeOptions::default())
        .await;
    assert_eq!(made.unwrap().len_bytes, whole.len() as u64);
    assert!(get(&on, "k").await == whole);
}
