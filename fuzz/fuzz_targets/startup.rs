//! The first packet: a size that does not change its mind, and a packet that is read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgsluice::wire::startup::{MAX_SIZE, Packet, PacketError, read, size};

fuzz_target!(|input: &[u8]| {
    // Each prefix says the same as soon as it says anything.
    let verdict = size(input);
    for end in 0..input.len().min(16) {
        match size(&input[..end]) {
            Ok(None) => assert!(end < 4),
            known => assert_eq!(known, verdict),
        }
    }
    examine(input);
    // And with a length that is right, so that what is behind it is reached.
    if input.len() >= 8 && input.len() <= MAX_SIZE {
        let mut packet = input.to_vec();
        packet[..4].copy_from_slice(&u32::try_from(input.len()).unwrap().to_be_bytes());
        assert_eq!(size(&packet), Ok(Some(packet.len())));
        examine(&packet);
        // As a login, whatever the version was.
        packet[4..7].copy_from_slice(&[0, 3, 0]);
        examine(&packet);
    }
});

fn examine(packet: &[u8]) {
    match read(packet) {
        Ok(Packet::Startup(request)) => {
            assert!(!request.user.is_empty() && !request.database.is_empty());
            assert!(packet.ends_with(b"\0"));
            let names = request.settings.iter().map(|(name, _)| name);
            let known: usize = request.settings.iter().map(|(name, value)| name.len() + value.len()).sum();
            // Lower case can be longer, and what is no UTF-8 becomes three bytes each.
            assert!(known <= 3 * packet.len());
            for text in
                names.chain(request.settings.iter().map(|(_, value)| value)).chain([&request.user, &request.database])
            {
                assert!(!text.contains('\0'));
            }
        }
        Ok(Packet::Cancel(key)) => {
            assert!((4..=256).contains(&key.secret.len()));
            assert_eq!(packet.len(), 12 + key.secret.len());
        }
        Ok(Packet::Ssl | Packet::Gss) => assert_eq!(packet.len(), 8),
        Err(PacketError::Length) => {}
        Err(error) => {
            assert!(size(packet).is_ok(), "{error}");
            assert!(!error.to_string().is_empty());
        }
    }
}
