#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    trainer::strangers::Target::named("assignment").check(bytes);
});
