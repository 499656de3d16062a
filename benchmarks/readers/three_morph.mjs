// Vertices as three.js' own loader, mixer and morphing give them, as JSON; those of several meshes
// one after the other, in the order of their names:
// node three_morph.mjs NODE_MODULES FILE.glb TIME_S ...
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, file, ...times] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${modules}/three/${path}`).href);
globalThis.self = globalThis; // which the loader asks for, as in a browser
const THREE = await load('build/three.module.js');
const { GLTFLoader } = await load('examples/jsm/loaders/GLTFLoader.js');
const bytes = new Uint8Array(fs.readFileSync(file)).buffer;
const gltf = await new Promise((done, failed) => new GLTFLoader().parse(bytes, '', done, failed));
const meshes = [];
gltf.scene.traverse((object) => object.isMesh && meshes.push(object));
meshes.sort((a, b) => (a.name < b.name ? -1 : 1));
const mixer = new THREE.AnimationMixer(gltf.scene);
mixer.clipAction(gltf.animations[0]).setLoop(THREE.LoopOnce).play().clampWhenFinished = true;
const point = new THREE.Vector3();
const frames = times.map((time) => {
  mixer.setTime(Number(time));
  return meshes.flatMap((mesh) =>
    Array.from({ length: mesh.geometry.attributes.position.count }, (_, i) =>
      mesh.localToWorld(mesh.getVertexPosition(i, point)).toArray()));
});
const keys = gltf.animations[0].tracks[0].times.length;
console.log(JSON.stringify({ version: THREE.REVISION, meshes: meshes.length, keys, frames }));
