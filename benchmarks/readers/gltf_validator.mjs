// Prints the report of Khronos' validator as JSON: node gltf_validator.mjs NODE_MODULES FILE.glb
import fs from 'node:fs';
import { createRequire } from 'node:module';

const [modules, file] = process.argv.slice(2);
const validator = createRequire(`${modules}/`)(`${modules}/gltf-validator`);
const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)));
console.log(JSON.stringify({ version: validator.version(), ...report.issues }));
