// What CloudFront does around the functions. What a function may do and this does not know ends the request with 502.
import cf from 'cloudfront';
import distribution from 'distribution.js';
import viewerRequest from 'viewer-request.js';
import viewerResponse from 'viewer-response.js';

const VIEWER = 'x-lab-viewer';

async function onRequest(r) {
    const event = eventOf(r, 'viewer-request');
    const before = event.request.headers;
    const fixed = fixedOf(event.request);
    event.request.headers = Object.assign({}, before);
    let answer;
    try {
        answer = await viewerRequest.handler(event);
    } catch (error) {
        r.error('the function on viewer requests: ' + error);
        r.return(503, 'FunctionExecutionError\n');
        return;
    }
    if (!answer || answer.statusCode || fixedOf(answer) !== fixed) {
        r.return(502, 'the lab supports no change but of headers\n');
        return;
    }
    const names = Object.keys(Object.assign({}, before, answer.headers));
    for (let i = 0; i < names.length; i++) {
        const name = names[i];
        if (distribution.names.indexOf(name) < 0 && textOf(before[name]) !== textOf(answer.headers[name])) {
            r.return(502, 'the function changed ' + name + ', and its code does not name that header\n');
            return;
        }
    }
    for (let i = 0; i < distribution.names.length; i++) {
        const name = distribution.names[i];
        // CloudFront drops what a function adds, unless the cache's key has it.
        const kept = name in before || distribution.forwarded.indexOf(name) >= 0;
        r.variables['edge_header_' + i] = kept ? textOf(answer.headers[name]) : '';
    }
    r.variables.edge_log = cf.lab.logged;
    r.internalRedirect('@origin');
}

// Not run for errors of the origin, as CloudFront has it.
function onResponse(r) {
    if (r.status >= 400) {
        return;
    }
    const event = eventOf(r, 'viewer-response');
    event.response = {statusCode: r.status, headers: {}, cookies: {}};
    const answer = viewerResponse.handler(event);
    if (!answer || answer.statusCode !== r.status || Object.keys(answer.headers).length > 0) {
        throw new Error('the lab supports no change of answers but cookies');
    }
    const added = Object.keys(answer.cookies).map((name) => {
        const one = answer.cookies[name];
        return name + '=' + one.value + (one.attributes ? '; ' + one.attributes : '');
    });
    if (added.length > 0) {
        r.headersOut['Set-Cookie'] = (r.headersOut['Set-Cookie'] || []).concat(added);
    }
}

function viewer(r) {
    return r.headersIn[VIEWER] || r.remoteAddress;
}

// X-Forwarded-For: the peer is added to what the viewer sent.
function chain(r) {
    const before = r.headersIn['x-forwarded-for'];
    return before ? before + ', ' + viewer(r) : viewer(r);
}

function eventOf(r, type) {
    const request = {method: r.method, uri: r.uri, querystring: {}, headers: {}, cookies: {}};
    Object.keys(r.args).forEach((name) => {
        request.querystring[name] = {value: '' + r.args[name]};
    });
    r.rawHeadersIn.forEach((pair) => {
        const name = pair[0].toLowerCase();
        const one = {value: pair[1]};
        if (name === 'cookie') {
            pair[1].split(';').forEach((crumb) => {
                const at = crumb.indexOf('=');
                const crumbName = crumb.slice(0, at).trim();
                request.cookies[crumbName] = request.cookies[crumbName] || {value: crumb.slice(at + 1).trim()};
            });
        } else if (name !== VIEWER && request.headers[name]) {
            const first = request.headers[name];
            first.multiValue = (first.multiValue || [{value: first.value}]).concat([one]);
        } else if (name !== VIEWER) {
            request.headers[name] = one;
        }
    });
    return {
        version: '1.0',
        context: {distributionId: distribution.id, eventType: type, requestId: r.variables.request_id},
        viewer: {ip: viewer(r)},
        request: request
    };
}

function fixedOf(request) {
    return JSON.stringify([request.method, request.uri, request.querystring, request.cookies]);
}

function textOf(header) {
    if (!header) {
        return '';
    }
    return header.multiValue ? header.multiValue.map((one) => one.value).join(', ') : header.value;
}

export default {onRequest: onRequest, onResponse: onResponse, chain: chain};
