// Viewer request: says who is to serve (blue: stable, green: canary) and stamps it on the request.
//
// Order: halted, blue_cidrs, green_cidrs, bucket. Whatever goes wrong, the answer is blue.
// Runs in CloudFront's runtime 2.0: no await in arguments, no header's `value` changed in place (a header that was sent
// twice would keep its other values).
import cf from 'cloudfront';
const crypto = require('crypto');

// Headers that rules of the route read and viewers may not set.
const REMOVED = [];

async function handler(event) {
    const request = event.request;
    let found = {arm: 'blue', reason: 'error', generation: ''};
    try {
        for (let i = 0; i < REMOVED.length; i++) {
            delete request.headers[REMOVED[i]];
        }
        found = await decide(event.viewer.ip, request.cookies);
    } catch (error) {
        console.log('blue, because ' + error);
    }
    request.headers['x-deployment'] = {value: found.arm};
    request.headers['x-deployment-reason'] = {value: found.reason};
    try {
        cf.logCustomData(found.arm + ' ' + found.reason + ' ' + found.generation);
    } catch (error) {
        console.log('not in the access log: ' + error);
    }
    return request;
}

async function decide(ip, cookies) {
    const store = cf.kvs();
    const text = await store.get('green_percentage');
    const state = JSON.parse(text);
    if (state.halted !== false) {
        return answer('blue', 'halted', state);
    }
    if (!isNumber(state.buckets, 10000) || !isNumber(state.salt, 9999)) {
        throw new Error('green_percentage holds ' + text);
    }
    const address = hexOf(ip);
    const blue = await store.get('blue_cidrs');
    if (holds(blue, address, state)) {
        return answer('blue', 'cidr', state);
    }
    const green = await store.get('green_cidrs');
    if (holds(green, address, state)) {
        return answer('green', 'cidr', state);
    }
    const own = bucketOf(cookies);
    const bucket = ((own < 0 ? hashOf(address) : own) + state.salt) % 10000;
    return answer(bucket < state.buckets ? 'green' : 'blue', 'bucket', state);
}

function answer(arm, reason, state) {
    return {arm: arm, reason: reason, generation: state.generation};
}

function isNumber(value, highest) {
    return Number.isInteger(value) && value >= 0 && value <= highest;
}

// Whether a sorted list of prefixes, none of which begins another, has one that begins the address: only the last
// one that is not above the address can. The list ends with the generation of the write that it came with.
function holds(list, address, state) {
    if (!list.endsWith('@' + state.generation)) {
        throw new Error('a list is not of generation ' + state.generation);
    }
    let low = 0;
    let high = list.length;
    let last = '';
    while (low < high) {
        const start = list.lastIndexOf(' ', ((low + high) >> 1) - 1) + 1;
        const gap = list.indexOf(' ', start);
        const end = gap < 0 ? list.length : gap;
        const prefix = list.slice(start, end);
        if (prefix > address) {
            high = start;
        } else {
            last = prefix;
            low = end + 1;
        }
    }
    return last !== '' && address.startsWith(last);
}
