// How far the weights of an animation are from those that three-vrm's expressions give, as JSON:
// node three_vrm.mjs NODE_MODULES FILE.glb CURVES.json TIME_S ...
// CURVES.json has "fps", "names" (VRM's vowels) and "frames".
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const [modules, file, curves, ...times] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(`${modules}/${path}`).href);
globalThis.self = globalThis; // which the loader asks for, as in a browser
const THREE = await load('three/build/three.module.js');
const { GLTFLoader } = await load('three/examples/jsm/loaders/GLTFLoader.js');
const { VRMExpressionLoaderPlugin } = await load('@pixiv/three-vrm/lib/three-vrm.module.js');
const bytes = new Uint8Array(fs.readFileSync(file)).buffer;
const loader = new GLTFLoader();
loader.register((parser) => new VRMExpressionLoaderPlugin(parser));
const gltf = await new Promise((done, failed) => loader.parse(bytes, '', done, failed));
const meshes = [];
gltf.scene.traverse((object) => object.morphTargetInfluences && meshes.push(object));
const weights = () => meshes.flatMap((mesh) => [...mesh.morphTargetInfluences]);
const mixer = new THREE.AnimationMixer(gltf.scene);
mixer.clipAction(gltf.animations[0]).setLoop(THREE.LoopOnce).play().clampWhenFinished = true;
const { fps, names, frames } = JSON.parse(fs.readFileSync(curves));
const expressions = gltf.userData.vrmExpressionManager;
let [difference, largest] = [0, 0];
for (const time of times.map(Number)) {
  mixer.setTime(time);
  const animated = weights();
  const frame = frames[Math.round(time * fps)];
  names.forEach((name, k) => expressions.setValue(name, frame[k]));
  expressions.update();
  weights().forEach((weight, i) => {
    difference = Math.max(difference, Math.abs(weight - animated[i]));
    largest = Math.max(largest, weight);
  });
}
console.log(JSON.stringify({ expressions: expressions.expressions.length, difference, largest }));
