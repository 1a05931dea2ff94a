//! The contract suite: what every [`Volume`] promises, as named cases.
//!
//! [`volume_contract!`](crate::volume_contract) makes one test of each case. A case gets a fresh,
//! empty volume and panics where a promise is broken. Cases with random input print their seed.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "these are tests, exported; the name of a case says what is promised"
)]

pub mod attributes;
pub mod buckets;
pub mod checksums;
pub mod conditions;
pub mod keys;
pub mod listing;
pub mod objects;
pub mod random;
mod subject;
pub mod upload_lists;
pub mod uploads;

pub(crate) use subject::{Subject, assert_refused, digest, part_claim, read_all};

#[cfg(doc)]
use crate::volume::Volume;

/// Makes a test of every case of the contract. The argument is an expression, evaluated for each
/// test, that is a future of `(volume, guard)`; the guard lives as long as the test.
///
/// ```
/// use fsstore::testing::MemVolume;
///
/// fsstore::volume_contract!(async { (MemVolume::new(), ()) });
/// ```
#[macro_export]
macro_rules! volume_contract {
    ($make:expr) => {
        $crate::volume_contract! { @cases $make;
            buckets: a_bucket_is_made_seen_and_deleted, a_bucket_with_an_object_is_not_deleted,
                deleting_a_bucket_ends_its_uploads, deleting_a_bucket_ends_uploads_in_use,
                bucket_settings_are_kept,
                buckets_are_listed_by_name, nothing_is_done_in_no_bucket,
                create_bucket_has_one_winner;
            objects: an_object_is_put_got_replaced_and_removed, an_empty_object_is_an_object,
                ranges_are_read_exactly, an_open_object_keeps_its_bytes,
                every_answer_tells_the_same, a_body_of_another_length_leaves_the_old_object,
                a_body_too_long_is_refused_when_announced, a_dropped_stage_leaves_nothing,
                a_given_time_is_kept, times_do_not_go_back, ranges_are_copied,
                an_object_is_copied_onto_itself, concurrent_puts_leave_one_of_them_whole;
            conditions: create_if_absent_has_one_winner, an_if_match_race_has_one_winner,
                compare_and_swap_loses_no_update, if_match_guards_a_put,
                if_match_on_nothing_is_no_such_key, times_and_sizes_guard_a_put,
                conditions_guard_a_remove, conditions_guard_attributes,
                conditions_are_decided_at_the_commit;
            keys: awkward_keys_are_exact, keys_come_and_go_in_any_order,
                a_key_and_one_below_it_both_exist, a_key_under_a_key_keeps_its_record,
                an_open_object_outlives_a_key_below_it, a_directory_marker_is_an_object,
                a_marker_with_a_body_keeps_it, a_directory_is_no_object,
                a_removed_key_leaves_no_prefix,
                a_key_is_never_missed_while_one_below_it_comes_and_goes,
                neighbours_do_not_disturb_each_other, copies_reach_every_kind_of_key;
            attributes: attributes_come_back, attributes_are_replaced_as_a_whole,
                a_patch_changes_what_it_names, a_touch_moves_the_time_and_nothing_else,
                attributes_of_nothing_are_not_set, large_attributes_come_back,
                too_large_attributes_are_refused, concurrent_patches_lose_nothing,
                a_tag_stands_while_attributes_change;
            listing: a_listing_sees_every_change, keys_are_in_order_of_bytes,
                listings_are_those_of_the_model, pages_make_the_whole,
                a_prefix_is_shown_only_after_the_marker, a_page_has_its_limit,
                an_entry_tells_what_stat_tells;
            uploads: an_upload_becomes_an_object, a_part_is_replaced,
                parts_that_were_not_uploaded_are_refused, parts_out_of_order_are_refused,
                a_small_part_is_refused_unless_last, numbers_may_have_gaps,
                parts_of_any_size_are_put_together, an_empty_part_is_an_object,
                an_aborted_upload_is_gone, completing_twice_answers_the_same,
                completing_at_once_answers_the_same,
                a_completed_upload_is_gone_with_its_object, an_upload_is_of_its_key,
                an_upload_is_of_its_bucket, a_bad_part_leaves_the_old_one, a_refused_completion_leaves_the_upload,
                one_of_two_completions_wins, ranges_are_copied_into_parts,
                uploads_reach_every_kind_of_key, an_upload_keeps_its_attributes;
            upload_lists: parts_are_listed_in_pages, uploads_are_listed_in_pages,
                uploads_are_rolled_up, an_upload_is_no_object;
            checksums: a_wrong_digest_leaves_the_old_object, a_right_digest_is_taken,
                a_chosen_checksum_is_kept, a_parts_checksum_is_kept,
                composite_checksums_are_over_the_parts, full_checksums_are_over_the_bytes,
                a_completion_checks_what_it_expects, a_claim_with_another_checksum_is_refused;
        }
    };
    (@cases $make:expr; $($group:ident: $($case:ident),+;)+) => {
        $($(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (volume, _guard) = $make.await;
                $crate::testing::contract::$group::$case(::std::sync::Arc::new(volume)).await;
            }
        )+)+
    };
}
