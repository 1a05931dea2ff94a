//! Events as the kernel writes them: a fixed head, then records that say what the event is about.
//! Pure. Source: fanotify(7), "Reading fanotify events"; linux/fanotify.h.

use libc::{
    FAN_EVENT_INFO_TYPE_DFID, FAN_EVENT_INFO_TYPE_DFID_NAME, FAN_EVENT_INFO_TYPE_FID,
    FAN_Q_OVERFLOW, FANOTIFY_METADATA_VERSION,
};

/// event_len, vers, reserved, metadata_len, mask, fd, pid.
const HEAD_LEN_BYTES: usize = 24;
/// info_type, pad, len, fsid, handle_bytes, handle_type.
const RECORD_HEAD_LEN_BYTES: usize = 20;
/// The type in front of a handle's bytes.
const KIND_LEN_BYTES: usize = 4;

/// A file handle: names an inode of one file system for good. The type, then the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle(Box<[u8]>);

impl Handle {
    /// Its type, which only the kernel understands.
    pub fn kind(&self) -> i32 {
        let kind = self.0.first_chunk::<KIND_LEN_BYTES>();
        kind.map_or(0, |bytes| i32::from_ne_bytes(*bytes))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.get(KIND_LEN_BYTES..).unwrap_or_default()
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// FAN_CREATE and its like.
    pub mask: u64,
    /// Whose process did it; 0 where it is none of ours.
    pub pid: i32,
    /// The directory and the name in it; `.` for the directory itself.
    pub name: Option<(Handle, Box<[u8]>)>,
    /// The inode itself; not told of names that come and go.
    pub object: Option<Handle>,
}

impl Event {
    /// Whether events were lost before this one.
    pub fn is_overflow(&self) -> bool {
        self.mask & FAN_Q_OVERFLOW != 0
    }
}

/// What cannot be understood: to be taken for lost events.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Calls `visit` with each event in what was read; of those of the process `own`, which are many,
/// what they are about is left out.
pub fn read_events(
    mut read: &[u8],
    own: i32,
    mut visit: impl FnMut(Event),
) -> Result<(), Malformed> {
    while !read.is_empty() {
        let len = u32::from_ne_bytes(field(read, 0)?) as usize;
        let [version] = field(read, 4)?;
        let head_len = usize::from(u16::from_ne_bytes(field(read, 6)?));
        if version != FANOTIFY_METADATA_VERSION || head_len < HEAD_LEN_BYTES || len < head_len {
            return Err(Malformed);
        }
        let (event, rest) = read.split_at_checked(len).ok_or(Malformed)?;
        let mut parsed = Event {
            mask: u64::from_ne_bytes(field(event, 8)?),
            pid: i32::from_ne_bytes(field(event, 20)?),
            name: None,
            object: None,
        };
        if parsed.pid != own {
            read_records(&event[head_len..], &mut parsed)?;
        }
        visit(parsed);
        read = rest;
    }
    Ok(())
}

fn read_records(mut records: &[u8], event: &mut Event) -> Result<(), Malformed> {
    while !records.is_empty() {
        let [kind] = field(records, 0)?;
        let len = usize::from(u16::from_ne_bytes(field(records, 2)?));
        if len < 4 {
            return Err(Malformed);
        }
        let (record, rest) = records.split_at_checked(len).ok_or(Malformed)?;
        match kind {
            FAN_EVENT_INFO_TYPE_FID => event.object = Some(handle_of(record)?.0),
            FAN_EVENT_INFO_TYPE_DFID | FAN_EVENT_INFO_TYPE_DFID_NAME => {
                let (handle, name) = handle_of(record)?;
                let name = name.split(|b| *b == 0).next().unwrap_or_default();
                let name = if name.is_empty() { b"." } else { name };
                event.name = Some((handle, name.into()));
            }
            _ => {}
        }
        records = rest;
    }
    Ok(())
}

/// The handle in a record, and what follows it.
fn handle_of(record: &[u8]) -> Result<(Handle, &[u8]), Malformed> {
    let len = u32::from_ne_bytes(field(record, 12)?) as usize;
    let end = RECORD_HEAD_LEN_BYTES.checked_add(len).ok_or(Malformed)?;
    let handle = record
        .get(RECORD_HEAD_LEN_BYTES - KIND_LEN_BYTES..end)
        .ok_or(Malformed)?;
    Ok((Handle(handle.into()), &record[end..]))
}

fn field<const LEN: usize>(bytes: &[u8], at: usize) -> Result<[u8; LEN], Malformed> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<LEN>());
    field.copied().ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: i32 = 77;

    fn record(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut record = vec![kind, 0, 0, 0];
        record.extend([7; 8]);
        record.extend((handle.len() as u32).to_ne_bytes());
        record.extend(1i32.to_ne_bytes());
        record.extend(handle);
        record.extend(name);
        record.resize(record.len().next_multiple_of(4), 0);
        let len = record.len() as u16;
        record[2..4].copy_from_slice(&len.to_ne_bytes());
        record
    }

    fn event(mask: u64, pid: i32, records: &[Vec<u8>]) -> Vec<u8> {
        let records = records.concat();
        let mut event = ((HEAD_LEN_BYTES + records.len()) as u32)
            .to_ne_bytes()
            .to_vec();
        event.extend([FANOTIFY_METADATA_VERSION, 0]);
        event.extend((HEAD_LEN_BYTES as u16).to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(pid.to_ne_bytes());
        event.extend(records);
        event
    }

    fn all(read: &[u8]) -> Result<Vec<Event>, Malformed> {
        let mut events = Vec::new();
        read_events(read, OWN, |event| events.push(event))?;
        Ok(events)
    }

    #[test]
    fn a_name_in_a_directory_is_read() {
        let records = [
            record(FAN_EVENT_INFO_TYPE_FID, &[9; 8], b""),
            record(FAN_EVENT_INFO_TYPE_DFID_NAME, &[1, 2, 3, 4], b"name\0"),
        ];
        let mut read = event(libc::FAN_MODIFY, 12, &records);
        read.extend(event(
            FAN_Q_OVERFLOW,
            0,
            &[record(4, &[0; 4], b"of a later kernel")],
        ));
        let events = all(&read).unwrap();
        assert_eq!(events.len(), 2);
        let (dir, name) = events[0].name.as_ref().unwrap();
        assert_eq!(
            (dir.kind(), dir.bytes(), &**name),
            (1, &[1, 2, 3, 4][..], &b"name"[..])
        );
        assert_eq!(events[0].object.as_ref().unwrap().bytes(), [9; 8]);
        assert_eq!((events[0].mask, events[0].pid), (libc::FAN_MODIFY, 12));
        assert!(events[1].is_overflow() && !events[0].is_overflow());
    }

    #[test]
    fn of_our_own_events_only_the_head_is_read() {
        let record = record(FAN_EVENT_INFO_TYPE_DFID_NAME, &[1; 8], b"n\0");
        let events = all(&event(libc::FAN_MOVED_TO, OWN, &[record])).unwrap();
        assert_eq!(
            (events[0].mask, &events[0].name),
            (libc::FAN_MOVED_TO, &None)
        );
    }

    #[test]
    fn a_directory_without_a_name_is_itself() {
        let read = event(
            libc::FAN_ATTRIB,
            1,
            &[record(FAN_EVENT_INFO_TYPE_DFID, &[5; 8], b"")],
        );
        let events = all(&read).unwrap();
        assert_eq!(&*events[0].name.as_ref().unwrap().1, b".");
    }

    #[test]
    fn whatever_is_cut_or_spoilt_is_told() {
        let whole = event(
            libc::FAN_CREATE,
            1,
            &[record(FAN_EVENT_INFO_TYPE_DFID_NAME, &[1; 8], b"n\0")],
        );
        for end in 1..whole.len() {
            assert_eq!(all(&whole[..end]), Err(Malformed), "{end}");
        }
        for at in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[at] = 0xff;
            // Whatever it says: it is read or refused, and never beyond its end.
            let _ = all(&spoilt);
        }
    }
}
