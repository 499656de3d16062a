// The head: its mesh and components, drawn in the house's light (rendering/shading.py).
import * as THREE from "./vendor/three.module.min.js";

const TYPES = { float32: Float32Array, uint32: Uint32Array, int16: Int16Array, uint8: Uint8Array };

// The message of streaming/basis.py: a length, a JSON header, arrays.
export function readFace(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const face = { ...header };
  for (const { name, type, shape, offset } of header.arrays) {
    const count = shape.reduce((product, n) => product * n, 1);
    face[name] = new TYPES[type](buffer, 4 + length + offset, count);
  }
  face.rank = face.scale.length;
  return face;
}

// Blinn highlights, wrapped diffuse light and openness, as the renderer of the project computes them.
const LIGHT = /* glsl */ `
const vec3 KEY_DIRECTION = normalize(vec3(-0.58, 0.58, 0.57)), KEY = vec3(1.12, 1.05, 0.97);
const vec3 FILL_DIRECTION = normalize(vec3(0.80, 0.05, 0.60)), FILL = vec3(0.22, 0.21, 0.22);
const vec3 RIM_DIRECTION = normalize(vec3(0.65, 0.45, -0.61)), RIM = vec3(0.55, 0.55, 0.58);
const vec3 CATCH_DIRECTION = normalize(vec3(-0.30, 0.28, 0.91));
const vec3 SIDE_CATCH_DIRECTION = normalize(vec3(0.72, 0.20, 0.66));
const vec3 SKY = vec3(0.23, 0.24, 0.27), GROUND = vec3(0.13, 0.095, 0.08), WRAP = vec3(0.42, 0.30, 0.25);
const float SHADE = 0.16, BOUNCE = 0.9;

vec3 wrapped(float cosine, vec3 wrap) { return max((cosine + wrap) / (1.0 + wrap), 0.0); }

float half_squared(vec3 normal, vec3 view, vec3 light) {
  float along = max(dot(normal, view + light), 0.0);
  return along * along / (2.0 + 2.0 * dot(view, light) + 1e-6);
}

vec3 knee(vec3 light) {
  return mix(light, 1.0 - 0.25 * exp((0.75 - light) / 0.25), step(0.75, light));
}

vec3 light_point(vec3 normal, vec3 view, vec3 albedo, float openness, float gloss, bool front) {
  vec3 lamps = KEY * wrapped(dot(normal, KEY_DIRECTION), WRAP);
  lamps += FILL * wrapped(dot(normal, FILL_DIRECTION), WRAP);
  lamps += RIM * max(dot(normal, RIM_DIRECTION), 0.0);
  vec3 around = mix(GROUND, SKY, 0.5 + 0.5 * normal.y);
  vec3 open_light = openness / (1.0 - BOUNCE * albedo * (1.0 - openness));
  float lit = SHADE + (1.0 - SHADE) * openness;
  vec3 diffuse = albedo * (lamps * lit + around * open_light);
  if (!front) return 0.22 * diffuse;
  float key = pow(half_squared(normal, view, KEY_DIRECTION), 6.0);
  float fill = pow(half_squared(normal, view, FILL_DIRECTION), 6.0);
  float skin = 0.075 * key + 0.055 * pow(key, 5.0) + 0.02 * fill;
  float window = max(half_squared(normal, view, CATCH_DIRECTION),
                     half_squared(normal, view, SIDE_CATCH_DIRECTION));
  float wet = 1.1 * clamp((window - 0.985) / 0.007, 0.0, 1.0) + 0.10 * pow(key, 3.0);
  float lamp = lit * (skin * openness * (1.0 - gloss) + wet * gloss);
  float grazing = pow(max(1.0 - dot(normal, view), 0.0), 4.0);
  return knee(diffuse + lamp * KEY + 0.32 * grazing * openness * max(normal.y, 0.0) * SKY);
}
`;

const VERTEX = /* glsl */ `
attribute vec3 albedo;
attribute vec2 surface;
varying vec3 v_normal, v_view, v_albedo;
varying vec2 v_surface;
void main() {
  vec4 place = modelViewMatrix * vec4(position, 1.0);
  v_normal = normalMatrix * normal;
  v_view = -place.xyz;
  v_albedo = pow(albedo, vec3(2.2));
  v_surface = surface;
  gl_Position = projectionMatrix * place;
}
`;

const FRAGMENT = /* glsl */ `
varying vec3 v_normal, v_view, v_albedo;
varying vec2 v_surface;
uniform float mouth;
${LIGHT}
void main() {
  vec3 normal = normalize(v_normal) * (gl_FrontFacing ? 1.0 : -1.0);
  float enclosed = 1.0 - smoothstep(0.15, 0.3, v_surface.x);
  float openness = v_surface.x + enclosed * mouth * 0.3;
  vec3 light = light_point(normal, normalize(v_view), v_albedo, openness, v_surface.y, gl_FrontFacing);
  gl_FragColor = vec4(pow(clamp(light, 0.0, 1.0), vec3(1.0 / 2.2)), 1.0);
}
`;

export class Head {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace; // the shader encodes itself
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(24, 1, 0.01, 10);
    this.pivot = new THREE.Group();
    this.scene.add(this.pivot);
    this.yaw = 0;
    this.pitch = 0;
    this.zoom = 1;
    this.mesh = null;
    this.view = ""; // what was drawn last, but for the pose
    canvas.addEventListener("webglcontextrestored", () => { this.view = ""; });
    this.listen();
  }

  show(face) {
    this.face = face;
    if (this.mesh) {
      this.pivot.remove(this.mesh);
      this.mesh.geometry.dispose();
      this.mesh.material.dispose();
    }
    const geometry = new THREE.BufferGeometry();
    this.positions = new Float32Array(face.template);
    geometry.setAttribute("position", new THREE.BufferAttribute(this.positions, 3));
    geometry.setAttribute("albedo", new THREE.BufferAttribute(face.colors, 3, true));
    const surface = new Uint8Array(2 * face.n_vertices);
    for (let i = 0; i < face.n_vertices; i += 1) {
      surface[2 * i] = face.openness[i];
      surface[2 * i + 1] = face.gloss[i];
    }
    geometry.setAttribute("surface", new THREE.BufferAttribute(surface, 2, true));
    geometry.setIndex(new THREE.BufferAttribute(face.faces, 1));
    this.material = new THREE.ShaderMaterial({
      vertexShader: VERTEX, fragmentShader: FRAGMENT, side: THREE.DoubleSide,
      uniforms: { mouth: { value: 0 } },
    });
    this.mesh = new THREE.Mesh(geometry, this.material);
    this.mesh.frustumCulled = false;
    const centre = face.low.map((low, axis) => (low + face.high[axis]) / 2);
    this.mesh.position.set(-centre[0], -centre[1], -centre[2]);
    this.height = face.high[1] - face.low[1];
    this.width = face.high[0] - face.low[0];
    this.pivot.add(this.mesh);
    this.weights = null;
    this.pose(new Float32Array(face.rank), 0);
    this.restGap = this.gap();
  }

  // Coefficients (rank) to vertices; gain: 1 as predicted, 0 the neutral face.
  pose(coefficients, gain) {
    const { template, mean, components, scale, rank } = this.face;
    const n = template.length;
    const out = this.positions;
    const weights = new Float32Array(rank + 1);
    for (let k = 0; k < rank; k += 1) weights[k] = gain * coefficients[k] * scale[k];
    weights[rank] = gain;
    if (this.weights?.every((weight, k) => weight === weights[k])) return;
    this.weights = weights;
    this.view = "";
    for (let i = 0; i < n; i += 1) out[i] = template[i] + gain * mean[i];
    for (let k = 0; k < rank; k += 1) {
      const weight = weights[k];
      const start = k * n;
      for (let i = 0; i < n; i += 1) out[i] += weight * components[start + i];
    }
    const { geometry } = this.mesh;
    geometry.attributes.position.needsUpdate = true;
    geometry.computeVertexNormals();
    if (this.restGap !== undefined) {
      this.material.uniforms.mouth.value = Math.min(Math.max((this.gap() - this.restGap) / 15, 0), 1);
    }
  }

  // Millimetres between the inner lips.
  gap() {
    if (!this.face.inner_lips) return 0;
    const [a, b] = this.face.inner_lips;
    const p = this.positions;
    return 1000 * Math.hypot(p[3 * a] - p[3 * b], p[3 * a + 1] - p[3 * b + 1], p[3 * a + 2] - p[3 * b + 2]);
  }

  // Draws what changed since the last call; returns whether anything did.
  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = Math.min(window.devicePixelRatio, 2);
    const view = [width, height, ratio, this.yaw, this.pitch, this.zoom].join();
    if (!this.mesh || !width || !height || view === this.view) return false;
    this.view = view;
    const size = this.renderer.getSize(new THREE.Vector2());
    if (this.renderer.getPixelRatio() !== ratio) this.renderer.setPixelRatio(ratio);
    if (size.x !== width || size.y !== height) this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    const half = Math.tan((this.camera.fov * Math.PI) / 360);
    const needed = Math.max(this.height / 2, this.width / 2 / this.camera.aspect) * 1.12;
    this.camera.position.z = needed / half / this.zoom + 0.1;
    this.camera.updateProjectionMatrix();
    this.pivot.rotation.set(this.pitch, this.yaw, 0, "XYZ");
    this.renderer.render(this.scene, this.camera);
    return true;
  }

  // One finger, the mouse or the arrow keys turn; two fingers, the wheel, + and - come nearer.
  listen() {
    const { canvas } = this;
    const fingers = new Map();
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? spread() : 0;
      const now = { x: event.clientX, y: event.clientY };
      fingers.set(event.pointerId, now);
      if (fingers.size === 2) this.come(spread() / (before || 1));
      else this.turn((now.x - last.x) * 0.008, (now.y - last.y) * 0.006);
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.come(Math.exp(-event.deltaY * 0.001));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const act = {
        ArrowLeft: () => this.turn(-0.1, 0), ArrowRight: () => this.turn(0.1, 0),
        ArrowUp: () => this.turn(0, -0.1), ArrowDown: () => this.turn(0, 0.1),
        "+": () => this.come(1.15), "-": () => this.come(1 / 1.15), Home: () => this.front(),
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    });
    canvas.addEventListener("dblclick", () => this.front());
  }

  turn(yaw, pitch) {
    this.yaw = Math.min(Math.max(this.yaw + yaw, -1.4), 1.4);
    this.pitch = Math.min(Math.max(this.pitch + pitch, -0.6), 0.6);
  }

  front() {
    Object.assign(this, { yaw: 0, pitch: 0, zoom: 1 });
  }

  come(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.5), 4);
  }
}
