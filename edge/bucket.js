
// ---- What both functions share: which of the 10,000 buckets a viewer is in. ----

const COOKIE = 'canary-bucket';

// The bucket that the viewer's cookie names; -1 where it names none. Viewers may pick one: it is no secret and no
// access control.
function bucketOf(cookies) {
    const cookie = cookies && cookies[COOKIE];
    return cookie && /^[0-9]{1,4}$/.test(cookie.value) ? Number(cookie.value) : -1;
}

// The bucket of an address as hexOf writes it: of the whole IPv4 address, of the /64 of an IPv6 one.
function hashOf(address) {
    const digest = crypto.createHash('md5').update(address.slice(0, 17)).digest('hex');
    return parseInt(digest.slice(0, 8), 16) % 10000;
}

// '4' and 8 hex digits, or '6' and 32, of an address in any form that RFC 4291 allows; an IPv4 address that is mapped
// into IPv6 is an IPv4 address. Throws for anything else.
function hexOf(ip) {
    if (ip.indexOf(':') < 0) {
        return '4' + quad(ip);
    }
    let text = ip.toLowerCase();
    const dot = text.indexOf('.');
    if (dot >= 0) {
        const colon = text.lastIndexOf(':') + 1;
        const tail = quad(text.slice(colon));
        text = text.slice(0, colon) + tail.slice(0, 4) + ':' + tail.slice(4);
    }
    const halves = text.split('::');
    let hex = groups(halves[0]);
    if (halves.length === 2) {
        const rest = groups(halves[1]);
        hex = hex + '0'.repeat(32 - hex.length - rest.length) + rest;
    }
    if (halves.length > 2 || !/^[0-9a-f]{32}$/.test(hex)) {
        throw new Error('no address: ' + ip);
    }
    return hex.startsWith('00000000000000000000ffff') ? '4' + hex.slice(24) : '6' + hex;
}

function groups(text) {
    if (text === '') {
        return '';
    }
    const parts = text.split(':');
    let hex = '';
    for (let i = 0; i < parts.length; i++) {
        const part = parts[i];
        if (part === '' || part.length > 4) {
            throw new Error('no group of an address: ' + part);
        }
        hex += part.padStart(4, '0');
    }
    return hex;
}

function quad(text) {
    if (!/^[0-9]{1,3}(\.[0-9]{1,3}){3}$/.test(text)) {
        throw new Error('no address: ' + text);
    }
    const parts = text.split('.');
    let hex = '';
    for (let i = 0; i < 4; i++) {
        const part = Number(parts[i]);
        if (part > 255) {
            throw new Error('no address: ' + text);
        }
        hex += (part + 256).toString(16).slice(1);
    }
    return hex;
}
