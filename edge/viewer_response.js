// Viewer response: a viewer without a bucket is given the one of the address, so that it stays when the address changes.
const crypto = require('crypto');

// Seconds; a bucket is none of a person's properties, but nothing should stay for ever.
const AGE = 2592000;

function handler(event) {
    const response = event.response;
    try {
        if (bucketOf(event.request.cookies) < 0) {
            const cookies = response.cookies || {};
            cookies[COOKIE] = {
                value: '' + hashOf(hexOf(event.viewer.ip)),
                attributes: 'Path=/; Max-Age=' + AGE + '; Secure; HttpOnly; SameSite=Lax'
            };
            response.cookies = cookies;
        }
    } catch (error) {
        console.log('no cookie, because ' + error);
    }
    return response;
}
